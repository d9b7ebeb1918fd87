"""The one configuration of a service: the options of ``onepass serve``, and what the app takes."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from api.schemas import MAX_BATCH, MAX_DETECTIONS, MAX_IDS, MAX_K
from common.errors import InputError
from common.json_models import JsonModel, option
from tracks.association.options import PRESETS, LinkOptions, OnlinePreset
from tracks.live import LINK_STATE

SERVER, LINK, RAY = "Server", "Live linking", "On Ray"
APP = "onepass"  # name of the service on Ray Serve
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


def _read_link_options(value: Any) -> Any:
    try:
        return LinkOptions.read(Path(value)) if isinstance(value, str | Path) else value
    except InputError as error:
        raise ValueError(str(error)) from None  # what pydantic adds the field's name to


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Limits(JsonModel):
    """Limits of one server, each an upper bound.

    ``k``, ``batch``, ``ids`` and ``detections`` may be lower than the OpenAPI document says, not
    higher.

    Attributes:
        body_bytes: size of a request's body.
        pixels: width times height of an uploaded image, known before it is decoded.
        decode_seconds: to decode the images of one request.
        k: hits of one query.
        batch: queries of one ``/v1/search/batch``, and of single searches answered together.
        ids: detections named by ``ids``.
        hits: queries times k of one request; bounds its answer to some megabytes.
        numbers: values of all vectors in one answer with ``include_features``.
        waiting_queries: queries that wait for the index; beyond it 429.
        detections: of one frame that is linked.
        waiting_uploads: images that wait for the model, the one under way included.
        waiting_frames: frames that wait to be linked, the one under way included.
        link_sequences: sequences whose live state is kept; those idle for longest leave for new ones.
        link_sequence_bytes: of the live state of one sequence.
        link_bytes: of the live state of all; those idle for longest are closed where room is needed.
        requests: answered at once; beyond it 503. Probes do not count.
        connections: open at once; beyond it the oldest closes that nothing is done for. More than
            ``requests``; in this process only, as what follows but for ``bodies_bytes``.
        bodies_bytes: of all large bodies under way; beyond it 503.
        unread_bytes: of all answers that clients have not read; beyond it the oldest is dropped.
        head_bytes: of a request's line and headers; beyond it 431.
        headers: of a request; beyond it 431.
        head_seconds: from the connection, or from its first byte, to the end of a head.
        body_seconds: for a whole body; beyond it 408.
        answer_seconds: for a client to read a whole answer.
        stalled_seconds: without a byte of a body (408), or with none read of an answer.
        wrong_keys: of one address in a minute; beyond it 429. Right keys are not concerned.
    """

    body_bytes: Count = 20_000_000
    pixels: Count = 60_000_000
    decode_seconds: Annotated[float, Field(gt=0)] = 10.0
    k: Annotated[Count, Field(le=MAX_K)] = MAX_K
    batch: Annotated[Count, Field(le=MAX_BATCH)] = MAX_BATCH
    ids: Annotated[Count, Field(le=MAX_IDS)] = MAX_IDS
    hits: Count = 50_000
    numbers: Count = 5_000_000
    waiting_queries: Count = 2048
    detections: Annotated[Count, Field(le=MAX_DETECTIONS)] = MAX_DETECTIONS
    waiting_uploads: Count = 8
    waiting_frames: Count = 64
    link_sequences: Count = 10_000
    link_sequence_bytes: Count = 64_000_000
    link_bytes: Count = 1_000_000_000
    requests: Count = 400
    connections: Count = 500
    bodies_bytes: Count = 100_000_000
    unread_bytes: Count = 64_000_000
    head_bytes: Count = 64_000
    headers: Count = 100
    head_seconds: Seconds = 10.0
    body_seconds: Seconds = 300.0
    answer_seconds: Seconds = 300.0
    stalled_seconds: Seconds = 20.0
    wrong_keys: Count = 20

    @model_validator(mode="after")
    def _room_for_probes(self) -> Limits:
        if self.connections <= self.requests:
            raise ValueError(
                f"`connections={self.connections}` must be more than `requests={self.requests}`, so "
                "that probes are answered"
            )
        return self


class ServeConfig(JsonModel):
    """All that a service is started with; frozen, and checked when it is made."""

    index: Annotated[str, BeforeValidator(str)] = Field(description="An index folder.")
    host: str = option(SERVER, "Address to listen on.", "127.0.0.1")
    port: int = option(SERVER, "Port to listen on.", 8000, ge=1, le=65535)
    allowed_host: tuple[str, ...] = Field(
        (),
        description="A name of this server, as a proxy or clients call it, beside localhost, this "
        "machine's own name and IP addresses; can be given again.",
    )
    api_key_file: Path | None = option(
        SERVER,
        "Require one of its keys in X-API-Key. A line is a key, and after a blank what it may do: "
        "search, link, admin; nothing there is all. It is read again when it changes.",
    )
    insecure: bool = option(
        SERVER, "Let other machines in without a key, with --host and no --api-key-file.", False
    )
    log_json: bool | None = option(
        SERVER, "Log lines as JSON; by default unless stderr is a terminal."
    )
    limits: Limits = Limits()

    images: tuple[str, ...] = Field((), description="OLD=NEW: a folder of images that was moved.")

    live: bool = True
    link_state: Annotated[Path, AfterValidator(Path.absolute)] | None = option(
        LINK,
        "File for the open tracks of live cameras, on a disk of this machine; by default "
        "INDEX/live/links.sqlite3.",
    )
    link_preset: OnlinePreset = option(
        LINK, "How frames of live cameras are linked, as for onepass link --preset.", "online"
    )
    link_options: Annotated[LinkOptions | None, BeforeValidator(_read_link_options)] = option(
        LINK, "The same from a file, as for onepass link --options."
    )

    ray: bool = option(
        RAY,
        "Serve on Ray: each part of the index is searched by its own process. Needs some 15 s and "
        "2 GB to start; if one process is enough, that is faster.",
        False,
    )
    replicas: int = option(RAY, "With --ray: processes of each part.", 1, ge=1)
    address: str | None = option(RAY, "With --ray: a cluster to join, whose nodes see the index.")

    @model_validator(mode="after")
    def _consistent(self) -> ServeConfig:
        if self.link_options is not None and self.link_preset != "online":
            raise ValueError("`link_options` and `link_preset`: give one of them")
        if not (self.api_key_file or self.insecure or is_loopback(self.host)):
            raise ValueError(
                f"`host={self.host!r}` lets other machines in, and nothing asks for a key; give "
                "`api_key_file`, or `insecure=True` where everybody who reaches the port may ask"
            )
        if not self.ray and (self.address or self.replicas > 1):
            given = f"address={self.address!r}" if self.address else f"replicas={self.replicas}"
            raise ValueError(
                f"`{given}` needs `ray=True`; without it one process serves, and Ray is not used"
            )
        return self

    @field_validator("link_options")
    @classmethod
    def _online(cls, options: LinkOptions | None) -> LinkOptions | None:
        if options is not None and options.method == "offline":
            raise ValueError("`method` is offline, and a live camera is linked online")
        return options

    @property
    def linking(self) -> LinkOptions:
        """How frames of live cameras are linked."""
        return self.link_options or PRESETS[self.link_preset]

    @property
    def link_file(self) -> Path | None:
        """File for the open tracks of live cameras; None: live linking is off.

        It is by default where there is no disk that all processes of the service share: for an
        index in an object store, and for several replicas on a cluster.
        """
        if not self.live or self.link_state is not None:
            return self.link_state if self.live else None
        shared = not (self.address and self.replicas > 1)
        return Path(self.index) / LINK_STATE if shared and "://" not in self.index else None


class AppConfig(ServeConfig):
    """Arguments of an application in a config file of Ray Serve.

    Live linking keeps its state in a file of one machine, so it is off by default.

    Attributes:
        shards: number of shards; segment s is searched by shard s modulo this.
        shard: number of this shard, for a shard.
        cpus: logical CPUs of each process; FAISS uses as many threads.
    """

    ray: bool = True
    live: bool = False
    log_json: bool | None = True
    shards: int = 1
    shard: int = 0
    cpus: float = 1.0

    @property
    def shard_names(self) -> list[str]:
        """Names of the shards' applications."""
        return [f"{APP}-shard-{number}" for number in range(self.shards)]
