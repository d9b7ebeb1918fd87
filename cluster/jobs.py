"""Ray's job server: reach it with a bound on every request, follow a job, look at it, stop it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cluster.errors import ClusterError, LeftRunningError, WorkError

_CONNECT_SECONDS = 5.0
_HELLO_SECONDS = 10.0  # for the first answer: is there a job server at all
_REQUEST_SECONDS = 60.0  # for any later one; the upload is a few hundred kilobytes
_QUIET_SECONDS = 30.0  # without a line of log: ask whether the cluster is still there
_LOST_SECONDS = 60.0  # without any answer: give the cluster up
_STOP_SECONDS = 30.0  # Ray asks a job to end, and kills it 3 s later


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


@dataclass(frozen=True)
class Job:
    """What the cluster tells of a job; never its environment, which may hold secrets."""

    job_id: str
    status: str
    started: str | None  # ISO 8601 in UTC
    ended: str | None
    command: str
    message: str
    exit_code: int | None  # the command's own; None before it ended by itself


def by_hand(address: str, job_id: str) -> str:
    """How to go on without us, for a message."""
    return (
        f"follow it: onepass job logs --follow --address {address} {job_id}; "
        f"stop it: onepass job stop --address {address} {job_id}"
    )


def connect(address: str) -> Any:
    """Ray's client, with a bound on every request: its own waits for ever.

    Raises:
        ClusterError: ``address`` is not a dashboard's, nothing answers there, or it refuses the
            token.
    """
    if not address.startswith(("http://", "https://")):
        # Ray would take it for the address of its control store and wait there 40 seconds.
        raise ClusterError(f"--address {address}: give the dashboard's, as http://HOST:8265")
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
    with asking(address):
        return Bounded(address)


@contextmanager
def asking(address: str, job_id: str | None = None) -> Iterator[None]:
    """Ray's errors while the job server is asked, as one line.

    Raises:
        ClusterError: it does not answer, refuses the token, or knows no ``job_id``.
    """
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:  # of these calls only AuthenticationError
        raise ClusterError(
            f"--address {address}: {one_line(getattr(error, 'message', str(error)))}; set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if job_id and "status code 404" in str(error):
            raise ClusterError(
                f"{job_id}: no such job at {address}; 'onepass job list --address {address}' "
                "names them"
            ) from None
        raise ClusterError(
            f"--address {address}: {one_line(str(error)) or type(error).__name__}; check that "
            "Ray's dashboard answers there"
        ) from None


def list_jobs(address: str) -> list[Job]:
    """Every job that the cluster still knows, the oldest first.

    Raises:
        ClusterError: as ``connect``.
    """
    client = connect(address)
    with asking(address):
        found = [details for details in client.list_jobs() if details.submission_id]
    return [_told(each) for each in sorted(found, key=lambda details: details.start_time or 0)]


def look_at(address: str, job_id: str) -> Job:
    """One job.

    Raises:
        ClusterError: as ``connect``, or there is no such job.
    """
    client = connect(address)
    with asking(address, job_id):
        return _told(client.get_job_info(job_id))


def stop(address: str, job_id: str) -> Job:
    """Ask a job to end and wait until it has; a job that ended before is left as it is.

    Raises:
        ClusterError: as ``look_at``.
        WorkError: it still runs after ``_STOP_SECONDS``.
    """
    client = connect(address)
    with asking(address, job_id):
        client.stop_job(job_id)
        end = time.monotonic() + _STOP_SECONDS
        while not (details := client.get_job_info(job_id)).status.is_terminal():
            if time.monotonic() > end:
                raise WorkError(
                    f"job {job_id} was asked to stop {_STOP_SECONDS:g} s ago and still runs; look "
                    f"again with: onepass job status --address {address} {job_id}"
                )
            time.sleep(0.5)
    return _told(details)


def print_logs(address: str, job_id: str, *, log: Callable[[str], object]) -> None:
    """Pass on what a job has printed until now.

    Raises:
        ClusterError: as ``look_at``.
    """
    client = connect(address)
    with asking(address, job_id):
        log(client.get_job_logs(job_id))


def follow(address: str, job_id: str, *, log: Callable[[str], object]) -> Ended:
    """Pass a job's log on, from its beginning, and wait for its end.

    Raises:
        ClusterError: as ``look_at``.
        WorkError: the cluster stopped answering.
        LeftRunningError: Ctrl-C; the job goes on.
    """
    client = connect(address)
    with asking(address, job_id):
        client.get_job_info(job_id)
    return follow_with(client, address, job_id, log=log)


def follow_with(client: Any, address: str, job_id: str, *, log: Callable[[str], object]) -> Ended:
    """As ``follow``, with a client that is connected."""
    follower = _Follower(client, job_id, log)
    try:
        details = follower.to_the_end()
    except KeyboardInterrupt:
        raise LeftRunningError(
            f"job {job_id} goes on without you; {by_hand(address, job_id)}"
        ) from None
    except _LostError as lost:
        raise WorkError(
            f"--address {address} stopped answering while job {job_id} ran ({lost}); "
            f"{by_hand(address, job_id)}"
        ) from None
    status = str(details.status)
    if status == "SUCCEEDED":
        return Ended(job_id, status, "", 0)
    message = _why(details.message or "", follower.shown > 0)
    own = details.driver_exit_code
    if status == "STOPPED":
        return Ended(job_id, status, message, 130)
    return Ended(job_id, status, message, own if own and 0 < own < 256 else 1)


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
                    raise _LostError(one_line(str(error)) or type(error).__name__) from None
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


def _told(details: Any) -> Job:
    def moment(milliseconds: int | None) -> str | None:
        if not milliseconds:
            return None
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    status = str(details.status)
    return Job(
        job_id=details.submission_id,
        status=status,
        started=moment(details.start_time),
        ended=moment(details.end_time),
        command=details.entrypoint,
        message="" if status in ("SUCCEEDED", "RUNNING") else _why(details.message or "", True),
        exit_code=details.driver_exit_code,
    )


def _why(message: str, log_was_shown: bool) -> str:
    """Why a job failed, in one line; with no log to read, all that Ray has to say."""
    if not log_was_shown:
        return " ".join(message.split())
    return one_line(message.split(", last available logs", 1)[0])


def one_line(text: str) -> str:
    """The line of somebody else's error that says what went wrong."""
    lines = text.strip().splitlines() or [""]
    # A server's traceback says what went wrong in its last line.
    return (lines[-1] if "Traceback" in lines[0] else lines[0]).rstrip(".")
