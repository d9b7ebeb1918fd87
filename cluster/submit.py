"""Run a onepass command on a cluster through Ray's job server, and follow it to its end.

Ray's own commands do the rest: ``ray job list|status|logs|stop``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from common.errors import ClusterError, LeftRunningError, WorkError

_CHECKOUT = Path(__file__).resolve().parent.parent
# All that a job needs of a checkout, without images, runs or a virtual environment that may lie in
# it: Ray would send up to 500 MiB.
CODE = ("ami", "api", "cluster", "common", "index", "migration", "onepass", "pipelines", "tracks")
# Options whose values are files. For a probe, --labels is a column.
_FILE_OPTIONS = (
    *("--out", "--checkpoint", "--head", "--validation", "--gate-checkpoint", "--gate-labels"),
    "--truth",
)

_CONNECT_SECONDS = 5.0
_FIRST_ANSWER_SECONDS = 10.0  # is there a job server at all
_REQUEST_SECONDS = 60.0  # for any later one; the upload is a few hundred kilobytes
_QUIET_SECONDS = 30.0  # without a line of log: check that the cluster still answers
_LOST_SECONDS = 60.0  # without any answer: give up


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    job_id: str
    status: str  # Ray's: SUCCEEDED, FAILED or STOPPED
    message: str  # Ray's, in one line
    exit_code: int  # that of the command where it ended by itself; 130 where it was stopped; else 1


def submit(address: str, arguments: Sequence[str], *, env: Sequence[str] = ()) -> tuple[Any, str]:
    """Submit ``onepass ARGUMENTS``.

    Args:
        address: of the dashboard, ``http://HOST:8265``.
        arguments: of the command: ``["extract", "/data", …]``.
        env: environment variables of the job: ``NAME`` with the value of this process, or
            ``NAME=VALUE``.

    Returns:
        Ray's client, and the job's id.

    Raises:
        ClusterError: no command, a relative path, a password in a URL, a variable that is not
            set, no answer at ``address``, or a token that the cluster refuses. Nothing was
            submitted.
    """
    check_command(arguments)
    variables = read_env(env)
    client = _connect(address)
    with _client_errors(address):
        job_id: str = client.submit_job(
            # Not sys.executable, which is a path of this machine: the job starts on the head
            # node, with the "python" of the PATH that 'ray start' had there.
            entrypoint=shlex.join(["python", "-m", "onepass", *arguments]),
            runtime_env=_code() | ({"env_vars": variables} if variables else {}),
        )
    return client, job_id


def follow(client: Any, address: str, job_id: str, *, log: Callable[[str], object]) -> Ended:
    """Copy a job's log, from its beginning, and wait for the job's end.

    Args:
        client: as ``submit`` returned it.
        address: of the dashboard.
        job_id: as ``submit`` returned it.
        log: called with each piece of the log.

    Raises:
        WorkError: the cluster stopped answering.
        LeftRunningError: Ctrl-C; the job goes on.
    """
    follower = _Follower(client, address, job_id, log)
    try:
        details = follower.wait()
    except KeyboardInterrupt:
        raise LeftRunningError(f"job {job_id} goes on; {next_steps(address, job_id)}") from None
    status, code, message = str(details.status), details.driver_exit_code, details.message or ""
    if status == "SUCCEEDED":
        message = ""
    elif follower.shown:
        message = _one_line(message.split(", last available logs", 1)[0])
    else:  # there is no log: show all that Ray has
        message = " ".join(message.split())
    failed = code if code and 0 < code < 256 else 1
    return Ended(job_id, status, message, {"SUCCEEDED": 0, "STOPPED": 130}.get(status, failed))


def next_steps(address: str, job_id: str) -> str:
    """Ray's commands to follow and to stop the job, for a message."""
    return (
        f"follow it: ray job logs --follow --address {address} {job_id}; "
        f"stop it: ray job stop --address {address} {job_id}"
    )


def check_command(arguments: Sequence[str]) -> None:
    """Check a command before it is sent, as far as that goes without parsing it.

    Raises:
        ClusterError: there is none, a path is relative, or a URL has a password in it.
    """
    if not arguments:
        raise ClusterError("nothing to submit; give a command after --, as: -- extract SOURCE …")
    if any(re.search(r"://[^/]*:[^/]*@|[?&]password=", value) for value in arguments):
        raise ClusterError(
            "a password in a URL would be shown in the cluster's list of jobs; leave it out, and set "
            "PGPASSWORD or ~/.pgpass where the job runs"
        )
    group = arguments[0]
    first = 2 if group in ("index", "probe", "database", "tracks") else 1
    paths = [("the path", value) for value in arguments[first : first + 1] if value[:1] != "-"]
    if group == "models":  # its arguments are models
        paths = []
    words = [word.split("=", 1) if word[:2] == "--" else [word] for word in arguments]
    options = _FILE_OPTIONS if group == "probe" else (*_FILE_OPTIONS, "--labels")
    paths += [pair for pair in pairwise(chain.from_iterable(words)) if pair[0] in options]
    for name, value in paths:
        if not (Path(value).is_absolute() or "://" in value):
            raise ClusterError(
                f"{name} {value}: the job runs in another folder on the cluster; "
                "give an absolute path on storage that every node sees"
            )


def read_env(env: Sequence[str]) -> dict[str, str]:
    """Parse ``NAME`` and ``NAME=VALUE``; a message never shows a value.

    Raises:
        ClusterError: a name that is no variable's, or that is not set here.
    """
    variables = {}
    for number, word in enumerate(env, 1):
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ClusterError(
                f"`env`, the {number}. of {len(env)}: give NAME, or NAME=VALUE, with a name of "
                "letters, digits and _"
            )
        if not equals and name not in os.environ:
            raise ClusterError(f"`env={name!r}` is not set here; set it, or give {name}=VALUE")
        variables[name] = value if equals else os.environ[name]
    return variables


def _code() -> dict[str, object]:
    """Ray's options that send this checkout; an installed onepass sends nothing."""
    if not (_CHECKOUT / "pyproject.toml").is_file():
        return {}
    # In the syntax of .gitignore: nothing at the top but the folder itself and the code.
    excludes = ["/*", "!/.", *(f"!/{name}" for name in CODE), "__pycache__"]
    return {"working_dir": str(_CHECKOUT), "excludes": excludes}


def _connect(address: str) -> Any:
    """Ray's client, with a time limit on every request: by default there is none."""
    if not address.startswith(("http://", "https://")):
        # Ray would take it for the address of its control store and wait there 40 seconds.
        raise ClusterError(
            f"`address={address!r}` is not the dashboard's; give it as http://HOST:8265"
        )
    from ray.job_submission import JobSubmissionClient

    class ClientWithTimeouts(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            seconds = _FIRST_ANSWER_SECONDS if endpoint == "/api/version" else _REQUEST_SECONDS
            options.setdefault("timeout", (_CONNECT_SECONDS, seconds))
            return super()._do_request(method, endpoint, **options)

    # For Ray, RAY_ADDRESS overrides its argument, and this variable overrides both: the address that
    # was given must be the one that is used.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    for handler in logging.getLogger("ray").handlers:  # it logs each file and each connection
        handler.setLevel(logging.ERROR)
    with _client_errors(address):
        return ClientWithTimeouts(address)


@contextmanager
def _client_errors(address: str) -> Iterator[None]:
    """Errors of Ray's client as one line: no answer, or a token that is refused."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:  # of these calls only AuthenticationError
        raise ClusterError(
            f"`address={address!r}`: {_one_line(getattr(error, 'message', str(error)))}; set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ClusterError(
            f"`address={address!r}`: {_one_line(str(error)) or type(error).__name__}; check that "
            "Ray's dashboard answers there"
        ) from None


class _Follower:
    """Copies a job's log, each character once, over as many connections as it takes.

    Proxies and port forwards close a stream that is quiet, and a machine that loses its power
    closes nothing at all; so only the job's status says that it has ended.
    """

    def __init__(
        self, client: Any, address: str, job_id: str, log: Callable[[str], object]
    ) -> None:
        self._client = client
        self._address = address
        self._job_id = job_id
        self._log = log
        self._last_answer = time.monotonic()
        self.shown = 0

    def wait(self) -> Any:
        """Copy the log until the job has ended; returns Ray's details of the job."""
        from aiohttp import ClientError
        from ray.exceptions import RayError

        while True:
            try:
                asyncio.run(self._tail())
                details = self._details()
                if details.status.is_terminal():
                    return details
            except BrokenPipeError:  # of the log's reader, not of the cluster
                raise
            except (ClientError, RayError, OSError, RuntimeError) as error:
                if time.monotonic() - self._last_answer > _LOST_SECONDS:
                    raise WorkError(
                        f"`address={self._address!r}` stopped answering while job {self._job_id} ran "
                        f"({_one_line(str(error)) or type(error).__name__}); "
                        f"{next_steps(self._address, self._job_id)}"
                    ) from None
            time.sleep(1)

    def _details(self) -> Any:
        details = self._client.get_job_info(self._job_id)
        self._last_answer = time.monotonic()
        return details

    async def _tail(self) -> None:
        stream, seen = self._client.tail_job_logs(self._job_id), 0
        try:
            while True:
                piece = asyncio.ensure_future(anext(stream, None))
                while not (await asyncio.wait({piece}, timeout=_QUIET_SECONDS))[0]:
                    self._details()
                if (text := piece.result()) is None:
                    return
                # Each connection starts with the beginning of the log.
                self._last_answer, seen = time.monotonic(), seen + len(text)
                if seen > self.shown:
                    self._log(text[self.shown - seen :])
                    self.shown = seen
        finally:
            piece.cancel()


def _one_line(text: str) -> str:
    """The line of another program's error that says what went wrong."""
    lines = text.strip().splitlines() or [""]
    # A server's traceback says it in its last line.
    return (lines[-1] if "Traceback" in lines[0] else lines[0]).rstrip(".")
