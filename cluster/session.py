"""One Ray session: joined where there is a cluster, else started here.

A Ray that is started here asks for a token of its own (``cluster/token.py``), is reached from this
machine only, keeps its files where only this user reads them, has an object store sized for the
work (``store_bytes``), and starts no process that only clusters need.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

from cluster.executors import local_cores
from cluster.slots import Slots, available_slots
from cluster.token import forget, own_token, token_refusal
from common.errors import ClusterError, StalledError
from common.network import check_port
from common.text import printable

_STORE_BYTES_PER_SLOT = 512 * 2**20  # eight blocks of Ray Data, which are 64 MiB here
_STORE_SHARE = 0.3  # of free memory, as Ray's default
_MIN_STORE_BYTES = 80 * 10**6  # Ray refuses less than 75 MiB
_MESSAGE_CHARACTERS = 160
# A raylet insists on its agents. These commands only wait for it to end, and announce no ports.
_NO_AGENTS = (
    "--dashboard_agent_command=cat",
    "--runtime_env_agent_command=cat",
    "--metrics_agent_port=-1",
    "--metrics_export_port=-1",
    "--dashboard_agent_listen_port=-1",
    "--runtime_env_agent_port=1",  # used only for environments of workers, which ours do not have
)
# Ray puts sockets below its folder, whose paths Linux limits to 107 bytes: 64 are Ray's.
_MAX_FOLDER_BYTES = 107 - 64
_RAY = "ray"  # Ray's own folder, in ours
_IDLE_WORKERS = "worker processes have been started"  # Ray ends those that have nothing to do


@contextmanager
def session(address: str | None = None, *, gpus_per_actor: float = 1.0) -> Iterator[Slots]:
    """Join the cluster at ``address`` or ``RAY_ADDRESS``, or start a local one.

    A session that this call started is ended by it; one that was already there is left. Ray's log
    files stay in ``onepass-ray-…`` of the temporary folder where something failed.

    Args:
        address: of the cluster's control store, ``HOST:PORT``.
        gpus_per_actor: as ``plan_slots`` takes it.

    Returns:
        The slots of the cluster.

    Raises:
        ClusterError: the address does not answer, the token is wrong, or it is too small.
    """
    # A thread that is left in a Ray call when the session ends must not start another Ray.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray

    owned = not ray.is_initialized()
    address = address or os.environ.get("RAY_ADDRESS")
    folder = private_folder() if owned and not address else None
    if owned:
        try:
            _start(address, folder)
        except ClusterError:
            if folder is not None:
                with suppress(OSError):  # it is not empty where Ray has logged why
                    folder.rmdir()
            raise
    try:
        cores = local_cores() if owned and not address else None
        yield available_slots(gpus_per_actor, cores=cores)
    except (KeyboardInterrupt, StalledError):
        # A thread still works inside Ray, and a shutdown can end this process without any
        # message. Ray's processes watch ours and end when it does.
        owned = False
        raise
    finally:
        if owned:
            ray.shutdown()
            forget()
    if folder is not None and owned:
        shutil.rmtree(folder, ignore_errors=True)


def private_folder() -> Path:
    """A new folder for a Ray that is started here, which only this user can enter.

    Ray makes all of its own folders readable and writable for everybody. It is made where
    ``RAY_TMPDIR`` says, or in the temporary folder; in ``/tmp`` where that path is too long.

    Raises:
        ClusterError: it cannot be made.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    name = "onepass-ray-"
    if len(os.fsencode(base / f"{name}12345678" / _RAY)) > _MAX_FOLDER_BYTES:
        base = Path("/tmp")  # noqa: S108 - mkdtemp makes a new one, for this user alone
    try:
        return Path(tempfile.mkdtemp(prefix=name, dir=base))
    except OSError as error:
        raise ClusterError(
            f"Ray needs a folder for its files, and none can be made in {base}: {error.strerror}; "
            "set RAY_TMPDIR to a folder with a short path"
        ) from None


def store_bytes(slots: int, *, memory: int, shm: int | None) -> int:
    """Size of the object store of a Ray that is started here.

    Ray's default is 30 % of the free memory, whatever the work. This one holds blocks of at most
    64 MiB between two stages, and small results; vectors and features go through files. Eight
    blocks per slot are more than there ever are, and more would be spilled to disk and not lost.
    The store counts as memory of the container.

    Args:
        slots: logical CPUs.
        memory: free bytes, of the container where there is one.
        shm: free bytes of /dev/shm, None where there is none. A container has 64 MiB by default;
            Ray then keeps its objects in files of its temporary folder, which is slower.

    Returns:
        Bytes.
    """
    size = int(min(slots * _STORE_BYTES_PER_SLOT, memory * _STORE_SHARE))
    if shm is not None and size > shm * 0.95 and shm >= size / 4:
        size = int(shm * 0.95)  # a smaller store in memory is faster than a larger one on disk
    return max(_MIN_STORE_BYTES, size)


def print_status() -> None:
    """Print the raylet's messages about the cluster on stderr, one line each.

    Ray itself prints them whole on stdout, where results go; its log files have the full text.
    """
    from ray._private import worker

    def print_lines(data: dict[str, Any], ignore_prefix: bool) -> None:
        for message in data["lines"]:
            if _IDLE_WORKERS not in message:
                line = message.strip().split("\n")[0]
                line = shorten(line, _MESSAGE_CHARACTERS, placeholder=" …")
                sys.stderr.write(f"ray: {printable(line)}\n")

    worker.print_to_stdstream = print_lines


def _start(address: str | None, folder: Path | None) -> None:
    import ray

    print_status()
    # Ray's core warns on stderr about its own actors; its log files keep all of it.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray gives its workers a low priority, and on a busy machine they then hardly run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A worker's stack trace is for debugging; the user's error is raised and shown in one line.
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            forget()  # the token of an earlier Ray of this process
            _check_ray_port(address)
            with _without_output():
                ray.init(address=address, **quiet)
        else:
            # Two slots more than cores, for the filter and for tasks that mostly wait.
            slots = local_cores() + 2
            with own_token(), _without_output(), _without_services(), _on_loopback():
                # "local", or Ray would join any cluster that runs on this machine.
                ray.init(
                    "local",
                    num_cpus=slots,
                    object_store_memory=_local_store_bytes(slots),
                    include_dashboard=False,
                    _temp_dir=str(folder / _RAY) if folder else None,
                    **quiet,
                )
    except Exception as error:  # Ray raises a plain Exception where a start takes over 30 s
        text = str(getattr(error, "message", error)).splitlines() or [type(error).__name__]
        if not address:
            raise ClusterError(
                f"Ray could not be started on this machine: {text[0]}; a machine that is very "
                "busy or short of memory or disk does that: check it, and try again"
            ) from None
        raise ClusterError(
            f"Ray at {address} could not be reached: {text[0]}; "
            "check the address, that 'ray start' runs there, RAY_AUTH_MODE=token, and that "
            "RAY_AUTH_TOKEN_PATH is a file with its token"
        ) from None


@contextmanager
def _without_services() -> Iterator[None]:
    """Have Ray start its control store, its raylet and workers, and nothing else.

    An autoscaler, an API server, a log monitor and two agents serve clusters and dashboards. Here
    they cost six seconds of a core, and the raylet waits for its agents before it accepts a driver.
    """
    from ray._private import parameter, services

    params, start, api = parameter.RayParams, services.start_ray_process, services.start_api_server

    def without_agents(command: list[str], kind: str, *args: Any, **options: Any) -> Any:
        if kind == "raylet":  # the last one counts of a flag that is given twice
            command = [*command, *_NO_AGENTS]
        return start(command, kind, *args, **options)

    parameter.RayParams = partial(params, no_monitor=True, include_log_monitor=False)
    services.start_ray_process = without_agents
    services.start_api_server = lambda *_, **__: ("", None)
    try:
        yield
    finally:
        parameter.RayParams, services.start_ray_process = params, start
        services.start_api_server = api


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray listen to this machine only, as it does by itself where it knows no clusters.

    On Linux it would listen on every interface, and replaces 127.0.0.1 where it is given.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _local_store_bytes(slots: int) -> int:
    from ray._private.utils import estimate_available_memory

    shm = None
    if os.path.isdir("/dev/shm"):  # noqa: PTH112, S108 - where Ray keeps objects
        stat = os.statvfs("/dev/shm")  # noqa: S108 - as above
        shm = stat.f_bsize * stat.f_bavail
    return store_bytes(slots, memory=estimate_available_memory(), shm=shm)


@contextmanager
def _without_output() -> Iterator[None]:
    """Discard what is written to file descriptor 2: Ray's core announces its log level there."""
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def _check_ray_port(address: str) -> None:
    """Fail in seconds where nothing listens or the token is refused; Ray itself takes minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        check_port(host.strip("[]"), int(port))
        if reason := token_refusal(address):
            raise ConnectionRefusedError(reason)
