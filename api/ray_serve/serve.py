"""Runs the service on Ray Serve: replicas of the same app, segments searched by shards.

Each shard is an application of its own, so that stopping has an order: first the replicas finish
the requests under way, then the shards that they use stop. Every node must see the index folder;
replicas map its rows, shards its vectors.
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
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from api.http.keys import read_keys
from api.http.limits import Limits
from api.http.logs import configure
from api.ray_serve.shards import Shard, Shards
from api.server import bind
from cluster.session import session
from cluster.slots import cpus_each
from common.errors import ClusterError, StalledError, WorkError, first_line
from index.storage.layout import read_manifest
from tracks.association.options import LinkOptions
from tracks.live.store import LINK_STATE

NAME = "onepass"
START_SECONDS = 180.0  # imports on a busy machine; nodes that must start first
LOST_SECONDS = 30.0  # without an answer from Ray
_POLL_SECONDS = 5.0
OPEN_SECONDS = 60.0  # for a replica; one that needs longer answers "not ready" until then
END_SECONDS = 20.0  # for requests under way
REQUEST_SECONDS = 120.0  # for a request whose replica died and was not replaced

QUIET = {"log_level": "WARNING", "enable_access_log": False}  # the app logs requests itself

logger = logging.getLogger("onepass.api")


class Replica:
    """One process that answers requests; Ray Serve creates it and calls it for its app.

    The app is built in that process: it holds locks and objects of an event loop.
    """

    def __init__(
        self, index: Path, shards: list[str], *, log_json: bool, **app_options: Any
    ) -> None:
        configure(as_json=log_json)
        self._index = index
        self._shards = shards
        self._app_options = app_options

    def __serve_build_asgi_app__(self) -> FastAPI:
        shards = Shards([_wait_for_handle(name) for name in self._shards])
        app = create_app(
            self._index,
            open_snapshot=shards.open_snapshot,
            startup_wait_s=OPEN_SECONDS,
            **self._app_options,
        )
        app.add_middleware(SingleRequestId)
        return app


class SingleRequestId:
    """ASGI middleware: removes an X-Request-ID equal to the one that Ray Serve's proxy adds.

    The proxy adds the id of the request, or one that it generated, to every answer; where the app
    did not accept that id, the answer keeps both.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; remove the header from its answer."""
        sent = [pair for pair in scope.get("headers", []) if pair[0] == b"x-request-id"]

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair not in sent]
            await send(message)

        await self.app(scope, receive, send_without_id)


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
    """Serve ``index`` on Ray until SIGINT or SIGTERM, then stop what this call started.

    Args:
        index: an index folder; the segments of its current version set the number of shards.
        host: address that Ray Serve's proxies listen on.
        port: port that they listen on.
        replicas: processes that answer requests, and processes of each shard.
        address: a Ray cluster to join; None joins ``RAY_ADDRESS`` or starts Ray here.
        api_key_file: file of keys for requests under /v1; None requires no key.
        log_json: log lines as JSON; None: unless stderr is a terminal.
        link_state: as for ``create_app``, shared by all replicas. With several replicas on a
            cluster that was joined, name a file on a disk that all of them share, or live linking
            is off.
        link_options: as for ``create_app``.

    Raises:
        InputError: the index, the address, the keys or the cluster cannot be used.
        WorkError: a part did not start.
        StalledError: Ray does not answer any more.
    """
    as_json = not sys.stderr.isatty() if log_json is None else log_json
    configure(as_json=as_json)
    index = index.resolve()
    shards = len(read_manifest(index).segments)
    address = address or os.environ.get("RAY_ADDRESS")
    app_options = {
        "api_keys": read_keys(api_key_file) if api_key_file else None,
        "link_state": None if link_state == LINK_STATE and address and replicas > 1 else link_state,
        "link_options": link_options,
    }
    if not address:
        bind(host, port).close()  # a busy port is an error now, not a proxy that starts for ever
    stop = threading.Event()
    # Twice: Ray takes SIGTERM for itself when it starts.
    with ExitStack() as silenced, _set_on_signal(stop), session(address), _set_on_signal(stop):
        from ray import serve  # late: Ray takes seconds
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        if others := list(serve.status().applications):
            raise ClusterError(
                f"this Ray cluster serves already ({', '.join(others)}), and its one address "
                "cannot be shared; end that with 'serve shutdown', or give another `address`"
            )
        with ExitStack() as at_end:
            at_end.callback(serve.shutdown)
            try:
                serve.start(
                    proxy_location="EveryNode",
                    http_options={"host": host, "port": port, "request_timeout_s": REQUEST_SECONDS},
                    logging_config=QUIET,
                )
                _start_service(index, shards, replicas, as_json, app_options, stop)
                if not stop.is_set():
                    logger.info(
                        "serving on http://%s:%d, segments searched by %d shards; Ray's logs "
                        "(worker-*.err) have a line for each request",
                        *(host, port, shards),
                    )
                _wait(stop)
            except StalledError:
                at_end.pop_all()  # Ray is gone, so nothing can be shut down
                raise
            except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
                cause = first_line(getattr(error, "cause", None) or error).rstrip(".")
                raise WorkError(
                    f"Ray Serve failed on {host}:{port}: {cause}; check that the port is free on "
                    "every node, or choose another `port`"
                ) from error
            finally:
                # Ray prints to stdout that its controller, which was shut down, has ended.
                devnull = silenced.enter_context(Path(os.devnull).open("w"))
                silenced.enter_context(redirect_stdout(devnull))
            logger.info("ending")
            with suppress(TimeoutError):
                serve.delete(NAME)


def _wait(stop: threading.Event) -> None:
    """Wait for ``stop``, and check meanwhile that Ray answers.

    Raises:
        StalledError: it does not answer any more; nothing is served, nor can be shut down.
    """
    from ray import serve

    last_answer = time.monotonic()
    done = threading.Event()

    def poll() -> None:
        nonlocal last_answer
        while not done.wait(_POLL_SECONDS):
            with suppress(Exception):  # whatever Ray raises, it counts as no answer
                serve.status()
                last_answer = time.monotonic()

    thread = threading.Thread(target=poll, name="poll", daemon=True)
    thread.start()
    try:
        while not stop.wait(1.0):
            if time.monotonic() - last_answer > LOST_SECONDS:
                raise StalledError(
                    f"Ray has not answered for {LOST_SECONDS:g} s, so nothing is served; see its "
                    "logs for the cause, and start again"
                )
    finally:
        done.set()
        thread.join(_POLL_SECONDS)


def _start_service(
    index: Path,
    shards: int,
    replicas: int,
    log_json: bool,
    app_options: dict[str, Any],
    stop: threading.Event,
) -> None:
    """Start the shards, let them open the index, then start the replicas."""
    from ray import serve
    from ray.serve import RunTarget

    cpus = cpus_each(replicas * (1 + shards))
    names = [shard_name(number) for number in range(shards)]
    targets = [
        RunTarget(
            shard_app(index, number, shards, replicas=replicas, cpus=cpus, log_json=log_json),
            name=name,
            route_prefix=None,
        )
        for number, name in enumerate(names)
    ]
    _deploy(targets, stop)
    if stop.is_set():
        return
    # A damaged index is an error here and now: a replica could only log it.
    Shards([serve.get_app_handle(name) for name in names]).open_snapshot(index)
    app = replica_app(replicas, cpus, index, names, log_json=log_json, **app_options)
    _deploy([RunTarget(app, name=NAME)], stop)


def shard_name(number: int) -> str:
    """The name of a shard's application."""
    return f"{NAME}-shard-{number}"


def shard_app(
    index: Path, number: int, shards: int, *, replicas: int, cpus: float, log_json: bool
) -> Any:
    """A shard as an application of Ray Serve.

    Args:
        index: the index folder.
        number: of this shard.
        shards: how many there are.
        replicas: processes of this shard.
        cpus: logical CPUs of each; FAISS uses as many threads.
        log_json: log lines as JSON.
    """
    from ray import serve

    deployment = serve.deployment(Shard, **_deployment_options(replicas, cpus))
    return deployment.bind(index, number, shards, max(1, int(cpus)), log_json)


def replica_app(replicas: int, cpus: float, index: Path, shards: list[str], **options: Any) -> Any:
    """The replicas that answer requests, as an application of Ray Serve.

    Args:
        replicas: processes.
        cpus: logical CPUs of each.
        index: the index folder.
        shards: names of the shards' applications.
        options: of ``Replica``.
    """
    from ray import serve

    deployment = serve.deployment(serve.ingress()(Replica), **_deployment_options(replicas, cpus))
    return deployment.bind(index, shards, **options)


def _deployment_options(replicas: int, cpus: float) -> dict[str, Any]:
    return {
        "num_replicas": replicas,
        "ray_actor_options": {"num_cpus": cpus},
        "graceful_shutdown_timeout_s": END_SECONDS,
        "logging_config": QUIET,
        # The app itself rejects requests when too many wait, with an answer that says so.
        "max_ongoing_requests": 2 * Limits().waiting_queries,
    }


def _wait_for_handle(name: str) -> Any:
    """The handle of a shard; a cluster that starts all applications at once may not have it yet.

    Raises:
        WorkError: there is none after ``START_SECONDS``.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return serve.get_app_handle(name)
        except RayServeException:
            if time.monotonic() > deadline:
                raise WorkError(f"{name} did not start within {START_SECONDS:g} s") from None
        time.sleep(0.5)


def _deploy(targets: list[Any], stop: threading.Event) -> None:
    """Deploy applications and wait until they run.

    Raises:
        WorkError: one failed, or did not start in time.
    """
    from ray import serve

    serve.run_many(
        targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
    )
    deadline = time.monotonic() + START_SECONDS
    while not stop.is_set():
        status = serve.status()
        waiting = []
        for target in targets:
            app = status.applications.get(target.name)
            if app is not None and app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                lines = [line for line in app.message.splitlines() if line.strip()]
                raise WorkError(f"{target.name} failed to start on Ray: {(lines or ['?'])[-1]}")
            if app is None or app.status != "RUNNING":
                waiting.append(target.name)
        waiting += [
            f"proxy {state.value}" for state in status.proxies.values() if state != "HEALTHY"
        ]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise WorkError(
                f"{', '.join(waiting)} did not start within {START_SECONDS:g} s; check that the "
                "cluster has free CPUs ('ray status'), or give fewer `replicas`"
            )
        stop.wait(0.2)


@contextmanager
def _set_on_signal(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at the first SIGTERM or Ctrl-C; a second one has its usual effect."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
