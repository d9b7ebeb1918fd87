"""Run a onepass command on a cluster through Ray's job server, and follow it to its end.

What comes later is done with Ray's own commands: ``ray job list|status|logs|stop``.
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
# All that a job needs of a checkout. Naming it keeps out whatever else lies there: pictures,
# runs, a virtual environment. Ray refuses more than 500 MiB, and sends what is below that.
CODE = ("ami", "api", "cluster", "common", "index", "migration", "onepass", "pipelines", "tracks")
# Options that name files. For a probe, --labels is a column.
_FILES = (
    *("--out", "--checkpoint", "--head", "--validation", "--gate-checkpoint", "--gate-labels"),
    "--truth",
)

_CONNECT_SECONDS = 5.0
_HELLO_SECONDS = 10.0  # for the first answer: is there a job server at all
_REQUEST_SECONDS = 60.0  # for any later one; the upload is a few hundred kilobytes
_QUIET_SECONDS = 30.0  # without a line of log: ask whether the cluster is still there
_LOST_SECONDS = 60.0  # without any answer: give the cluster up


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    ``status`` and ``message`` are Ray's (SUCCEEDED, FAILED, STOPPED). ``exit_code`` is the
    command's own where it ended by itself (0, 1, 2, …), 130 where it was stopped, else 1.
    """

    job_id: str
    status: str
    message: str
    exit_code: int


def submit(address: str, arguments: Sequence[str], *, env: Sequence[str] = ()) -> tuple[Any, str]:
    """Submit ``onepass ARGUMENTS``.

    Args:
        address: of the dashboard, ``http://HOST:8265``.
        arguments: the command, as it would stand after ``onepass``.
        env: environment variables of the job: ``NAME`` with the value it has here, or
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
    with _errors_of(address):
        job_id: str = client.submit_job(
            # Not sys.executable: that is a path of this machine, the job starts on the head
            # node. "python" is whatever PATH says where 'ray start' ran, which is the Ray
            # image's own, or the virtual environment's if it was activated.
            entrypoint=shlex.join(["python", "-m", "onepass", *arguments]),
            runtime_env=_code() | ({"env_vars": variables} if variables else {}),
        )
    return client, job_id


def follow(client: Any, address: str, job_id: str, *, log: Callable[[str], object]) -> Ended:
    """Pass a job's log on, from its beginning, and wait for its end.

    Raises:
        WorkError: the cluster stopped answering.
        LeftRunningError: Ctrl-C; the job goes on.
    """
    follower = _Follower(client, address, job_id, log)
    try:
        details = follower.to_the_end()
    except KeyboardInterrupt:
        raise LeftRunningError(
            f"job {job_id} goes on without you; {next_steps(address, job_id)}"
        ) from None
    status, own, message = str(details.status), details.driver_exit_code, details.message or ""
    if status == "SUCCEEDED":
        message = ""
    elif follower.shown:
        message = _one_line(message.split(", last available logs", 1)[0])
    else:  # there is no log to read: all that Ray has
        message = " ".join(message.split())
    failed = own if own and 0 < own < 256 else 1
    return Ended(job_id, status, message, {"SUCCEEDED": 0, "STOPPED": 130}.get(status, failed))


def next_steps(address: str, job_id: str) -> str:
    """How to go on without us, for a message."""
    return (
        f"follow it: ray job logs --follow --address {address} {job_id}; "
        f"stop it: ray job stop --address {address} {job_id}"
    )


def check_command(arguments: Sequence[str]) -> None:
    """What can be known of a command without parsing it, before it is sent.

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
    given = [("the path", value) for value in arguments[first : first + 1] if value[:1] != "-"]
    if group == "models":  # it names models
        given = []
    split = [word.split("=", 1) if word[:2] == "--" else [word] for word in arguments]
    files = _FILES if group == "probe" else (*_FILES, "--labels")
    given += [pair for pair in pairwise(chain.from_iterable(split)) if pair[0] in files]
    for name, value in given:
        if not (Path(value).is_absolute() or "://" in value):
            raise ClusterError(
                f"{name} {value}: the job runs in another folder on the cluster; "
                "give an absolute path on storage that every node sees"
            )


def read_env(given: Sequence[str]) -> dict[str, str]:
    """``NAME`` and ``NAME=VALUE`` as variables; a message never shows a value.

    Raises:
        ClusterError: a name that is none, or one that is not set here.
    """
    variables = {}
    for number, word in enumerate(given, 1):
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ClusterError(
                f"--env, the {number}. of {len(given)}: give NAME, or NAME=VALUE, with a name of "
                "letters, digits and _"
            )
        if not equals and name not in os.environ:
            raise ClusterError(f"--env {name}: it is not set here; set it, or give {name}=VALUE")
        variables[name] = value if equals else os.environ[name]
    return variables


def _code() -> dict[str, object]:
    """Take this checkout along; an installed onepass is expected on the cluster."""
    if not (_CHECKOUT / "pyproject.toml").is_file():
        return {}
    # As .gitignore: nothing at the top but the folder itself and the code.
    excludes = ["/*", "!/.", *(f"!/{name}" for name in CODE), "__pycache__"]
    return {"working_dir": str(_CHECKOUT), "excludes": excludes}


def _connect(address: str) -> Any:
    """Ray's client, with a bound on every request: its own waits for ever."""
    if not address.startswith(("http://", "https://")):
        # Ray would take it for the address of its control store and wait there 40 seconds.
        raise ClusterError(f"--address {address}: give the dashboard's, as http://HOST:8265")
    from ray.job_submission import JobSubmissionClient

    class Bounded(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            answer = _HELLO_SECONDS if endpoint == "/api/version" else _REQUEST_SECONDS
            options.setdefault("timeout", (_CONNECT_SECONDS, answer))
            return super()._do_request(method, endpoint, **options)

    # Ray lets RAY_ADDRESS win over its argument, and this variable over both: what stands
    # on the command line must be what is used.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    for handler in logging.getLogger("ray").handlers:  # each file it packs, each connection
        handler.setLevel(logging.ERROR)
    with _errors_of(address):
        return Bounded(address)


@contextmanager
def _errors_of(address: str) -> Iterator[None]:
    """Errors of Ray's client as one line: no answer, or a token that is refused."""
    from ray.exceptions import RayError

    try:
        yield
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


class _Follower:
    """Passes a job's log on, each character once, over as many connections as it takes.

    Proxies and port forwards close a stream that is quiet, and a machine that loses its
    power closes nothing at all; the job's own status is the only word that it has ended.
    """

    def __init__(
        self, client: Any, address: str, job_id: str, log: Callable[[str], object]
    ) -> None:
        self._client = client
        self._address = address
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
                details = self._details()
                if details.status.is_terminal():
                    return details
            except BrokenPipeError:  # of the log's reader, not of the cluster
                raise
            except (ClientError, RayError, OSError, RuntimeError) as error:
                if time.monotonic() - self._heard > _LOST_SECONDS:
                    raise WorkError(
                        f"--address {self._address} stopped answering while job {self._job_id} ran "
                        f"({_one_line(str(error)) or type(error).__name__}); "
                        f"{next_steps(self._address, self._job_id)}"
                    ) from None
            time.sleep(1)

    def _details(self) -> Any:
        details = self._client.get_job_info(self._job_id)
        self._heard = time.monotonic()
        return details

    async def _tail(self) -> None:
        stream, seen = self._client.tail_job_logs(self._job_id), 0
        try:
            while True:
                coming = asyncio.ensure_future(anext(stream, None))
                while not (await asyncio.wait({coming}, timeout=_QUIET_SECONDS))[0]:
                    self._details()
                if (text := coming.result()) is None:
                    return
                # Each connection begins with the log's beginning.
                self._heard, seen = time.monotonic(), seen + len(text)
                if seen > self.shown:
                    self._log(text[self.shown - seen :])
                    self.shown = seen
        finally:
            coming.cancel()


def _one_line(text: str) -> str:
    """The line of somebody else's error that says what went wrong."""
    lines = text.strip().splitlines() or [""]
    # A server's traceback says what went wrong in its last line.
    return (lines[-1] if "Traceback" in lines[0] else lines[0]).rstrip(".")
