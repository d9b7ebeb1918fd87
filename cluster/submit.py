"""Run a command on a cluster through Ray's job server and follow it to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, LeftRunningError, WorkError

_CHECKOUT = Path(__file__).resolve().parent.parent
# All that a job needs of a checkout. Naming it keeps out whatever else lies there: pictures,
# runs, a virtual environment. Ray refuses more than 500 MiB, and sends what is below that.
_CODE = ("onepass.py", "api", "cluster", "index", "pipelines")

_CONNECT_SECONDS = 5.0
_HELLO_SECONDS = 10.0  # for the first answer: is there a job server at all
_REQUEST_SECONDS = 60.0  # for any later one; the upload is a few hundred kilobytes
_QUIET_SECONDS = 30.0  # without a line of log: ask whether the cluster is still there
_LOST_SECONDS = 60.0  # without any answer: give the cluster up


@dataclass(frozen=True)
class Ended:
    """How a job ended: Ray's status (SUCCEEDED, FAILED, STOPPED) and its message."""

    job_id: str
    status: str
    message: str


def run_job(address: str, arguments: Sequence[str], *, log: Callable[[str], object]) -> Ended:
    """Submit ``onepass ARGUMENTS``, pass its log on as it comes, wait for its end.

    Raises:
        ClusterError: no command, a relative path, a password in a URL, no answer at ``address``, or a token that
            the cluster refuses. Nothing was submitted.
        WorkError: the cluster stopped answering while the job ran.
        LeftRunningError: Ctrl-C; the job goes on.
    """
    if not arguments:
        raise ClusterError("nothing to submit; give a command after --, as: -- extract SOURCE …")
    _refuse_relative_paths(arguments)
    _refuse_passwords(arguments)
    client, job_id = _submit(address, arguments)
    follower = _Follower(client, job_id, log)
    by_hand = (
        f"follow it: ray job logs --follow --address {address} {job_id}; "
        f"stop it: ray job stop --address {address} {job_id}"
    )
    try:
        details = follower.to_the_end()
    except KeyboardInterrupt:
        raise LeftRunningError(f"job {job_id} goes on without you; {by_hand}") from None
    except _LostError as lost:
        raise WorkError(
            f"--address {address} stopped answering while job {job_id} ran ({lost}); {by_hand}"
        ) from None
    status = str(details.status)
    message = "" if status == "SUCCEEDED" else _why(details.message or "", follower.shown > 0)
    return Ended(job_id, status, message)


def _submit(address: str, arguments: Sequence[str]) -> tuple[Any, str]:
    from ray.exceptions import RayError

    if not address.startswith(("http://", "https://")):
        # Ray would take it for the address of its control store and wait there 40 seconds.
        raise ClusterError(f"--address {address}: give the dashboard's, as http://HOST:8265")
    try:
        client = _connect(address)
        job_id: str = client.submit_job(
            # Not sys.executable: that is a path of this machine, the job starts on the head
            # node. "python" is whatever PATH says where 'ray start' ran, which is the Ray
            # image's own, or the virtual environment's if it was activated.
            entrypoint=shlex.join(["python", "-m", "onepass", *arguments]),
            runtime_env=_runtime_env(),
        )
    except RayError as error:  # of these calls only AuthenticationError
        raise ClusterError(
            f"--address {address}: {_one_line(getattr(error, 'message', str(error)))}; set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ClusterError(
            f"--address {address}: {_one_line(str(error)) or type(error).__name__}; check that "
            "Ray's dashboard answers there"
        ) from None
    return client, job_id


def _connect(address: str) -> Any:
    """Ray's client, with a bound on every request: its own waits for ever."""
    from ray.job_submission import JobSubmissionClient

    class Bounded(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            answer = _HELLO_SECONDS if endpoint == "/api/version" else _REQUEST_SECONDS
            options.setdefault("timeout", (_CONNECT_SECONDS, answer))
            return super()._do_request(method, endpoint, **options)

    # Ray lets RAY_ADDRESS win over its argument, and this variable over both: what was asked
    # for on the command line must be what is used.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    for handler in logging.getLogger("ray").handlers:  # each file it packs, each connection
        handler.setLevel(logging.ERROR)
    return Bounded(address)


def _runtime_env() -> dict[str, object]:
    """Take this checkout along; an installed onepass is expected on the cluster."""
    if not (_CHECKOUT / "pyproject.toml").is_file():
        return {}
    # As .gitignore: nothing at the top but the folder itself and the code.
    excludes = ["/*", "!/.", *(f"!/{name}" for name in _CODE), "__pycache__"]
    return {"working_dir": str(_CHECKOUT), "excludes": excludes}


class _LostError(Exception):
    """The cluster has not answered for ``_LOST_SECONDS``."""


class _Follower:
    """Passes a job's log on, each character once, over as many connections as it takes.

    Proxies and port forwards close a stream that is quiet, and a machine that loses its
    power closes nothing at all; the job's own status is the only word that it has ended.
    """

    def __init__(self, client: Any, job_id: str, log: Callable[[str], object]) -> None:
        self._client = client
        self._job_id = job_id
        self._log = log
        self._heard = time.monotonic()
        self.shown = 0

    def to_the_end(self) -> Any:
        """Ray's details of the ended job."""
        from aiohttp import ClientError
        from ray.exceptions import RayError

        while True:
            try:
                asyncio.run(self._tail())
                details = self._ask()
                if details.status.is_terminal():
                    return details
            except BrokenPipeError:  # of the log's reader, not of the cluster
                raise
            except (ClientError, RayError, OSError, RuntimeError) as error:
                if time.monotonic() - self._heard > _LOST_SECONDS:
                    raise _LostError(_one_line(str(error)) or type(error).__name__) from None
            time.sleep(1)

    def _ask(self) -> Any:
        details = self._client.get_job_info(self._job_id)
        self._heard = time.monotonic()
        return details

    async def _tail(self) -> None:
        stream, seen = self._client.tail_job_logs(self._job_id), 0
        try:
            while True:
                coming = asyncio.ensure_future(anext(stream, None))
                while not (await asyncio.wait({coming}, timeout=_QUIET_SECONDS))[0]:
                    self._ask()
                if (text := coming.result()) is None:
                    return
                # Each connection begins with the log's beginning.
                self._heard, seen = time.monotonic(), seen + len(text)
                if seen > self.shown:
                    self._log(text[self.shown - seen :])
                    self.shown = seen
        finally:
            coming.cancel()


def _refuse_passwords(arguments: Sequence[str]) -> None:
    if any(re.search(r"://[^/]*:[^/]*@|[?&]password=", value) for value in arguments):
        raise ClusterError(
            "a password in a URL would be shown in the cluster's list of jobs; leave it out, and set "
            "PGPASSWORD or ~/.pgpass where the job runs"
        )


_FILES = ("--out", "--checkpoint", "--head", "--validation", "--gate-checkpoint", "--gate-labels")


def _refuse_relative_paths(arguments: Sequence[str]) -> None:
    words = 2 if arguments[0] in ("index", "probe", "database") else 1
    given = [("the path", value) for value in arguments[words : words + 1] if value[:1] != "-"]
    split = [part for word in arguments for part in _split_option(word)]
    # To a probe, labels are a column.
    files = _FILES if arguments[0] == "probe" else (*_FILES, "--labels")
    given += [pair for pair in pairwise(split) if pair[0] in files]
    for name, value in given:
        if not (Path(value).is_absolute() or "://" in value):
            raise ClusterError(
                f"{name} {value}: the job runs in another folder on the cluster; "
                "give an absolute path on storage that every node sees"
            )


def _split_option(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--") else [word]


def _why(message: str, log_was_shown: bool) -> str:
    """Why a job failed, in one line; with no log to read, all that Ray has to say."""
    if not log_was_shown:
        return " ".join(message.split())
    return _one_line(message.split(", last available logs", 1)[0])


def _one_line(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    # A server's traceback says what went wrong in its last line.
    return (lines[-1] if "Traceback" in lines[0] else lines[0]).rstrip(".")
