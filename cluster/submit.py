"""Run a command on a cluster through Ray's job server and follow it to its end."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cluster.errors import ClusterError

_CHECKOUT = Path(__file__).resolve().parent.parent
# What a job does not need; Ray refuses to upload more than 500 MiB.
_EXCLUDES = [".venv", ".git", ".cache", "demo-out", "tests", "docs", "*.egg-info"]


@dataclass(frozen=True)
class Ended:
    """How a job ended: Ray's status (SUCCEEDED, FAILED, STOPPED) and its message."""

    job_id: str
    status: str
    message: str


def run_job(address: str, arguments: Sequence[str], *, log: Callable[[str], object]) -> Ended:
    """Submit ``onepass ARGUMENTS``, pass its log on as it comes, wait for its end.

    Raises:
        ClusterError: no command, a relative path, no answer at ``address``, or a token that
            the cluster refuses.
    """
    from ray.job_submission import JobSubmissionClient

    if not arguments:
        raise ClusterError("nothing to submit; give a command after --, as: -- extract SOURCE …")
    _refuse_relative_paths(arguments)
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "onepass", *arguments]),
            runtime_env=_runtime_env(),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"--address {address}: {_first_line(error)}; check that the dashboard answers there, "
            "and for a protected cluster set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        ) from None

    async def follow() -> None:
        async for text in client.tail_job_logs(job_id):
            log(text)

    asyncio.run(follow())
    details = client.get_job_info(job_id)
    message = (details.message or "").strip().splitlines()
    failed = details.status != "SUCCEEDED"
    return Ended(job_id, str(details.status), message[0] if message and failed else "")


def _runtime_env() -> dict[str, object]:
    """Take this checkout along; an installed onepass is expected on the cluster."""
    if (_CHECKOUT / "pyproject.toml").is_file():
        return {"working_dir": str(_CHECKOUT), "excludes": _EXCLUDES}
    return {}


def _refuse_relative_paths(arguments: Sequence[str]) -> None:
    for option, value in pairwise(arguments):
        if option in ("--out", "--checkpoint", "--labels") and not (
            Path(value).is_absolute() or "://" in value
        ):
            raise ClusterError(
                f"{option} {value}: the job runs in another folder on the cluster; "
                "give an absolute path on storage that every node sees"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
