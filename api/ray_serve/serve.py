"""Runs the service on Ray Serve until a signal comes, then stops what it started."""

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

from api.config import APP, AppConfig, ServeConfig
from api.http.keys import Keys, read_keys
from api.http.logs import configure
from api.ray_serve.apps import QUIET, START_SECONDS, replicas, shard
from api.ray_serve.shards import Shards
from api.server import bind
from cluster.session import session
from cluster.slots import cpus_each
from common.errors import ClusterError, StalledError, WorkError, first_line
from common.storage import is_remote, to_path
from index.storage.layout import read_manifest

LOST_SECONDS = 30.0  # without an answer from Ray
REQUEST_SECONDS = 120.0  # for a request whose replica died and was not replaced
_POLL_SECONDS = 5.0

logger = logging.getLogger("onepass.api")


def serve_on_ray(config: ServeConfig) -> None:
    """Serve an index on Ray until SIGINT or SIGTERM, then stop what this call started.

    Joins the cluster of ``config.address`` or ``RAY_ADDRESS``; without either it starts Ray here.
    The segments of the index's current version set the number of shards.

    Raises:
        InputError: the index, the address, the keys or the cluster cannot be used.
        WorkError: a part did not start.
        StalledError: Ray does not answer any more.
    """
    configure(config.log_json)
    app = _app_config(config)
    keys = read_keys(app.api_key_file) if app.api_key_file else None
    if not app.address:
        # A busy port is an error now, not a proxy that starts for ever.
        bind(app.host, app.port).close()
    stop = threading.Event()
    # Twice: Ray takes SIGTERM for itself when it starts.
    with ExitStack() as silenced, _set_on_signal(stop), session(app.address), _set_on_signal(stop):
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
                _start(app, keys, stop)
                _wait(stop)
            except StalledError:
                at_end.pop_all()  # Ray is gone, so nothing can be shut down
                raise
            except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
                cause = first_line(getattr(error, "cause", None) or error).rstrip(".")
                raise WorkError(
                    f"Ray Serve failed on {app.host}:{app.port}: {cause}; check that the port is "
                    "free on every node, or choose another `port`"
                ) from error
            finally:
                # Ray prints to stdout that its controller, which was shut down, has ended.
                devnull = silenced.enter_context(Path(os.devnull).open("w"))
                silenced.enter_context(redirect_stdout(devnull))
            logger.info("ending")
            with suppress(TimeoutError):
                serve.delete(APP)


def _app_config(config: ServeConfig) -> AppConfig:
    """The configuration of the applications, for processes with another working folder."""
    index = config.index if is_remote(config.index) else str(Path(config.index).resolve())
    shards = len(read_manifest(to_path(index)).segments)
    changed = {
        "index": index,
        "api_key_file": config.api_key_file and config.api_key_file.absolute(),
        "address": config.address or os.environ.get("RAY_ADDRESS"),
        "log_json": not sys.stderr.isatty() if config.log_json is None else config.log_json,
        "shards": shards,
    }
    return AppConfig.model_validate(dict(config) | changed)


def _start(app: AppConfig, keys: Keys | None, stop: threading.Event) -> None:
    """Start Ray Serve and the shards, let them open the index, then start the replicas."""
    from ray import serve  # late: Ray takes seconds
    from ray.serve import RunTarget

    serve.start(
        proxy_location="EveryNode",
        http_options={"host": app.host, "port": app.port, "request_timeout_s": REQUEST_SECONDS},
        logging_config=QUIET,
    )
    app = app.model_copy(update={"cpus": cpus_each(app.replicas * (1 + app.shards))})
    shards = [
        RunTarget(shard(app.model_copy(update={"shard": number})), name=name, route_prefix=None)
        for number, name in enumerate(app.shard_names)
    ]
    _deploy(shards, stop)
    if stop.is_set():
        return
    # A damaged index is an error here and now: a replica could only log it.
    handles = [serve.get_app_handle(name) for name in app.shard_names]
    Shards(handles).open_snapshot(to_path(app.index))
    _deploy([RunTarget(replicas(app, keys), name=APP)], stop)
    if not stop.is_set():
        logger.info(
            "serving on http://%s:%d, segments searched by %d shards; Ray's logs (worker-*.err) "
            "have a line for each request",
            *(app.host, app.port, app.shards),
        )


def _deploy(targets: list[Any], stop: threading.Event) -> None:
    """Deploy applications and wait until they run.

    Raises:
        WorkError: one failed, or did not start in time.
    """
    from ray import serve  # late: Ray takes seconds

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


def _wait(stop: threading.Event) -> None:
    """Wait for ``stop``, and check meanwhile that Ray answers.

    Raises:
        StalledError: it does not answer any more; nothing is served, nor can be shut down.
    """
    from ray import serve  # late: Ray takes seconds

    last_answer = time.monotonic()
    done = threading.Event()

    def poll() -> None:
        nonlocal last_answer
        while not done.wait(_POLL_SECONDS):
            with suppress(Exception):  # another process: whatever Ray raises is no answer
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
