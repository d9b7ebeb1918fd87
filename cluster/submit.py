"""Run a onepass command on a cluster through Ray's job server."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.jobs import Ended, asking, connect, follow_with

_CHECKOUT = Path(__file__).resolve().parent.parent
# All that a job needs of a checkout. Naming it keeps out whatever else lies there: pictures,
# runs, a virtual environment. Ray refuses more than 500 MiB, and sends what is below that.
CODE = ("onepass.py", "api", "cluster", "index", "pipelines")


def run_job(
    address: str,
    arguments: Sequence[str],
    *,
    env: Sequence[str] = (),
    log: Callable[[str], object],
) -> Ended:
    """Submit ``onepass ARGUMENTS``, pass its log on as it comes, wait for its end.

    Raises:
        ClusterError: as ``submit``; nothing was submitted.
        WorkError: the cluster stopped answering while the job ran.
        LeftRunningError: Ctrl-C; the job goes on.
    """
    client, job_id = _submit(address, arguments, env)
    return follow_with(client, address, job_id, log=log)


def submit(address: str, arguments: Sequence[str], *, env: Sequence[str] = ()) -> str:
    """Submit ``onepass ARGUMENTS`` and leave it; the job's id.

    Args:
        address: of the dashboard, ``http://HOST:8265``.
        arguments: the command, as it would stand after ``onepass``.
        env: environment variables of the job: ``NAME`` with the value it has here, or
            ``NAME=VALUE``.

    Raises:
        ClusterError: no command, a relative path, a password in a URL, a variable that is not
            set, no answer at ``address``, or a token that the cluster refuses. Nothing was
            submitted.
    """
    return _submit(address, arguments, env)[1]


def _submit(address: str, arguments: Sequence[str], env: Sequence[str]) -> tuple[Any, str]:
    check_command(arguments)
    variables = read_env(env)
    client = connect(address)
    with asking(address):
        job_id: str = client.submit_job(
            # Not sys.executable: that is a path of this machine, the job starts on the head
            # node. "python" is whatever PATH says where 'ray start' ran, which is the Ray
            # image's own, or the virtual environment's if it was activated.
            entrypoint=shlex.join(["python", "-m", "onepass", *arguments]),
            runtime_env=_runtime_env() | ({"env_vars": variables} if variables else {}),
        )
    return client, job_id


def check_command(arguments: Sequence[str]) -> None:
    """What can be told of a command without parsing it, before it is sent.

    Raises:
        ClusterError: there is none, a path is relative, or a URL has a password in it.
    """
    if not arguments:
        raise ClusterError("nothing to submit; give a command after --, as: -- extract SOURCE …")
    _refuse_relative_paths(arguments)
    _refuse_passwords(arguments)


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


def _runtime_env() -> dict[str, object]:
    """Take this checkout along; an installed onepass is expected on the cluster."""
    if not (_CHECKOUT / "pyproject.toml").is_file():
        return {}
    # As .gitignore: nothing at the top but the folder itself and the code.
    excludes = ["/*", "!/.", *(f"!/{name}" for name in CODE), "__pycache__"]
    return {"working_dir": str(_CHECKOUT), "excludes": excludes}


def _refuse_passwords(arguments: Sequence[str]) -> None:
    if any(re.search(r"://[^/]*:[^/]*@|[?&]password=", value) for value in arguments):
        raise ClusterError(
            "a password in a URL would be shown in the cluster's list of jobs; leave it out, and set "
            "PGPASSWORD or ~/.pgpass where the job runs"
        )


_FILES = (
    *("--out", "--checkpoint", "--head", "--validation", "--gate-checkpoint", "--gate-labels"),
    "--truth",
)


def _refuse_relative_paths(arguments: Sequence[str]) -> None:
    words = 2 if arguments[0] in ("index", "probe", "database", "tracks") else 1
    given = [("the path", value) for value in arguments[words : words + 1] if value[:1] != "-"]
    if arguments[0] == "models":  # it names models
        given = []
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
