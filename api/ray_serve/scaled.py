"""Runs the service on Ray Serve: replicas of the very same app, segments searched by shards.

Each shard is an application of its own, so that the end has an order: first the replicas that
answer requests finish what is under way, and the shards that they ask end after them. The index
folder must be seen by every node; replicas map the rows, shards the vectors.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from api.http.keys import read_keys
from api.http.limits import Limits
from api.http.logs import configure
from api.ray_serve.shards import Shard, Shards
from api.server import bind
from cluster.session import cpus_each, session
from common.errors import ClusterError, StalledError, WorkError, first_line
from index.storage.layout import read_manifest
from tracks.association.options import LinkOptions
from tracks.live.store import LINK_STATE

NAME = "onepass"
START_SECONDS = 180.0  # imports on a busy machine; nodes that must start first
LOST_SECONDS = 30.0  # without a word from Ray
_LOOK_SECONDS = 5.0
OPEN_SECONDS = 60.0  # for a replica; one that needs longer says by itself that it is not ready
END_SECONDS = 20.0  # answers under way get this long
REQUEST_SECONDS = 120.0  # of a request whose replica is gone, and no other comes

QUIET = {"log_level": "WARNING", "enable_access_log": False}  # the app's own lines say more

logger = logging.getLogger("onepass.api")


class Replica:
    """One process that answers requests; Ray Serve makes it and asks it for its app.

    The app is made in that process: it holds locks and what an event loop gives it.
    """

    def __init__(
        self,
        index: Path,
        shards: list[str],
        keys: frozenset[bytes] | None,
        log_json: bool,
        linking: tuple[Path | None, LinkOptions | None],
    ) -> None:
        configure(as_json=log_json)
        self._link_state, self._link_options = linking
        self._index = index
        self._shards = shards
        self._keys = keys

    def __serve_build_asgi_app__(self) -> FastAPI:
        shards = Shards([_wait_for_handle(name) for name in self._shards])
        app = create_app(
            self._index,
            api_keys=self._keys,
            link_state=self._link_state,
            link_options=self._link_options,
            open_snapshot=shards.open_snapshot,
            open_first=OPEN_SECONDS,
        )
        app.add_middleware(SingleRequestId)
        return app


class SingleRequestId:
    """ASGI middleware: leaves X-Request-ID to Ray Serve's proxy where it says the same.

    The proxy adds the name a request came with, or the one it made up for it, to every answer;
    where the app did not take that for a name, an answer has both.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; take the header off its answer."""
        given = [pair for pair in scope.get("headers", []) if pair[0] == b"x-request-id"]

        async def unnamed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [one for one in message["headers"] if one not in given]
            await send(message)

        await self.app(scope, receive, unnamed)


def serve_on_ray(
    index: Path,
    *,
    host: str,
    port: int,
    replicas: int = 1,
    address: str | None = None,
    api_key_file: Path | None = None,
    log_json: bool | None = None,
    link_state: Path = LINK_STATE,
    link_options: LinkOptions | None = None,
) -> None:
    """Serve ``index`` on Ray until SIGINT or SIGTERM, then end what this call began.

    Args:
        index: an index folder; its current version's segments say how many shards there are.
        host: address that Ray Serve's proxies listen on.
        port: theirs.
        replicas: processes that answer requests, and processes of each shard.
        address: a Ray cluster to join; None joins ``RAY_ADDRESS`` or starts Ray here.
        api_key_file: keys of which one is asked for under /v1; None asks for none.
        log_json: log lines as JSON; None: where stderr is no terminal.
        link_state: as for ``create_app``, but that replicas share the file: where they are several
            on a cluster that was joined, it must be named, and be on the one disk of them all.
        link_options: as for ``create_app``.

    Raises:
        InputError: the index, the address, the keys or the cluster do not serve.
        WorkError: a part did not start.
        StalledError: Ray does not answer any more.
    """
    as_json = not sys.stderr.isatty() if log_json is None else log_json
    configure(as_json=as_json)
    folder = index.resolve()
    shards = len(read_manifest(folder).segments)
    keys = read_keys(api_key_file) if api_key_file else None
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        bind(host, port).close()  # a busy one is told now, and not by a proxy that starts for ever
    state = None if link_state == LINK_STATE and address and replicas > 1 else link_state
    end = threading.Event()
    # Twice: Ray takes SIGTERM for itself when it starts.
    with ExitStack() as at_last, _set_on_signal(end), session(address), _set_on_signal(end):
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        if others := list(serve.status().applications):
            raise ClusterError(
                f"this Ray cluster serves already ({', '.join(others)}), and its one address "
                "cannot be shared; end that with 'serve shutdown', or give another --address"
            )
        with ExitStack() as at_end:
            at_end.callback(serve.shutdown)
            try:
                serve.start(
                    proxy_location="EveryNode",
                    http_options={"host": host, "port": port, "request_timeout_s": REQUEST_SECONDS},
                    logging_config=QUIET,
                )
                _start_service(folder, shards, replicas, keys, as_json, (state, link_options), end)
                if not end.is_set():
                    logger.info(
                        "serving on http://%s:%d, segments searched by %d shards; Ray's logs "
                        "(worker-*.err) have a line for each request",
                        *(host, port, shards),
                    )
                _wait(end)
            except StalledError:
                at_end.pop_all()  # there is nobody left to be asked for it
                raise
            except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
                why = first_line(getattr(error, "cause", None) or error).rstrip(".")
                raise WorkError(
                    f"Ray Serve failed on {host}:{port}: {why}; look that the port is free on "
                    "every node, or choose another --port"
                ) from error
            finally:
                # Ray reports on stdout that its own controller, told to end, has ended.
                at_last.enter_context(redirect_stdout(at_last.enter_context(_nowhere())))
            logger.info("ending")
            with suppress(TimeoutError):
                serve.delete(NAME)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def _wait(end: threading.Event) -> None:
    """Wait to be told to end, and look meanwhile whether Ray is there.

    Raises:
        StalledError: it does not answer any more; nothing can be served, nor ended in order.
    """
    from ray import serve

    answered = time.monotonic()
    done = threading.Event()

    def look() -> None:
        nonlocal answered
        while not done.wait(_LOOK_SECONDS):
            with suppress(Exception):
                serve.status()
                answered = time.monotonic()

    looking = threading.Thread(target=look, name="look", daemon=True)
    looking.start()
    try:
        while not end.wait(1.0):
            if time.monotonic() - answered > LOST_SECONDS:
                raise StalledError(
                    f"Ray has not answered for {LOST_SECONDS:g} s, so nothing is served; look "
                    "into its logs what ended it, and start again"
                )
    finally:
        done.set()
        looking.join(_LOOK_SECONDS)


def _start_service(
    folder: Path,
    shards: int,
    replicas: int,
    keys: frozenset[bytes] | None,
    log_json: bool,
    linking: tuple[Path | None, LinkOptions | None],
    end: threading.Event,
) -> None:
    """Start the shards, see them open the index, start the replicas, see them run."""
    from ray import serve
    from ray.serve import RunTarget

    cpus = cpus_each(replicas * (1 + shards))
    names = [shard_name(own) for own in range(shards)]
    common = deployment_options(replicas, cpus)
    shard = serve.deployment(Shard, **common)
    targets = [
        RunTarget(
            shard.bind(folder, own, shards, max(1, int(cpus)), log_json),
            name=name,
            route_prefix=None,
        )
        for own, name in enumerate(names)
    ]
    _deploy(targets, end)
    if end.is_set():
        return
    # What is damaged is said here and now: a replica could only log it.
    Shards([serve.get_app_handle(name) for name in names]).open_snapshot(folder)
    replica = serve.deployment(serve.ingress()(Replica), **common)
    bound = replica.bind(folder, names, keys, log_json, linking)
    _deploy([RunTarget(bound, name=NAME)], end)


def shard_name(own: int) -> str:
    """The application that searches shard ``own``."""
    return f"{NAME}-shard-{own}"


def deployment_options(replicas: int, cpus: float) -> dict[str, Any]:
    """Ray Serve's options of a shard or a replica."""
    return {
        "num_replicas": replicas,
        "ray_actor_options": {"num_cpus": cpus},
        "graceful_shutdown_timeout_s": END_SECONDS,
        "logging_config": QUIET,
        # The app itself says when too much waits, and to whom.
        "max_ongoing_requests": 2 * Limits().waiting_queries,
    }


def _wait_for_handle(name: str) -> Any:
    """A shard; where a cluster starts all applications at once, it may not be known yet.

    Raises:
        WorkError: it is not after ``START_SECONDS``.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return serve.get_app_handle(name)
        except RayServeException:
            if time.monotonic() > deadline:
                raise WorkError(f"{name} is not there after {START_SECONDS:g} s") from None
        time.sleep(0.5)


def _deploy(targets: list[Any], end: threading.Event) -> None:
    """Deploy applications and wait until they run.

    Raises:
        WorkError: one failed, or did not start in time.
    """
    from ray import serve

    names = [target.name for target in targets]
    serve.run_many(
        targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
    )
    deadline = time.monotonic() + START_SECONDS
    while not end.is_set():
        status = serve.status()
        waiting = []
        for name in names:
            app = status.applications.get(name)
            if app is not None and app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                lines = [line for line in app.message.splitlines() if line.strip()]
                raise WorkError(f"{name} could not be started on Ray: {(lines or ['?'])[-1]}")
            if app is None or app.status != "RUNNING":
                waiting.append(name)
        waiting += [
            f"proxy {state.value}" for state in status.proxies.values() if state != "HEALTHY"
        ]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise WorkError(
                f"{', '.join(waiting)} did not start within {START_SECONDS:g} s; look whether the "
                "cluster has CPUs left ('ray status'), or ask for fewer --replicas"
            )
        end.wait(0.2)


@contextmanager
def _set_on_signal(end: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C set ``end``; a second one acts as if this was not there."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}

    def begin(sig: int, _: object) -> None:
        end.set()
        signal.signal(sig, before[signal.Signals(sig)])

    for one in before:
        signal.signal(one, begin)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
