"""Commands in processes that are killed: at the nth change to files, or at a moment.

``ForkServer`` starts one Python that has imported everything and forks a child for every command,
so that a kill costs tenths of a second. It is run as ``python -m tests.helpers.fork_server``. Each
child leads a session of its own, and all of it is killed at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from common.lease import LeaseTimeouts
from tests.helpers.die_at import die_at
from tests.helpers.processes import proc_stat

# Leases of killed processes expire, but sooner than for users.
QUICK = partial(LeaseTimeouts, renew_interval=0.1, expiry=0.6, confirm_delay=0.05)


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit status; -9 where it was killed when it was due, None where it hung.
        seconds: that it took.
        left: processes of its session that outlived it.
        changes: to files, where it came to its end and they were counted.
    """

    code: int | None
    seconds: float
    left: int
    changes: int = 0


class ForkServer:
    """Runs commands in children of a child; ``with ForkServer() as server: server.run(…)``.

    Args:
        command_line: import all that ``onepass`` needs, for ``onepass``, ``start`` and ``kill``.
        env: variables of the processes, beside those of this one.
    """

    def __init__(self, *, command_line: bool = False, env: dict[str, str] | None = None) -> None:
        self._arguments = ["--command-line"] if command_line else []
        self._env = {**os.environ, **(env or {})}

    def __enter__(self) -> ForkServer:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.fork_server", *self._arguments],
            cwd=Path(__file__).parents[2],
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(timeout=30)
        self._child.stdout.close()

    def run(
        self, *command: object, change: int | None = None, after: float | None = None
    ) -> float | None:
        """Run a command and kill it; the seconds it took where it ended before that, else None.

        Args:
            command: name and arguments, as ``run_command`` takes them.
            change: kill it right before its nth change to files, counted from 0; where the index
                is in a store, to what is stored.
            after: kill it after so many seconds.
        """
        ended = Ended(*self._ask(command=command, change=change, after=after))
        assert ended.code in (0, -signal.SIGKILL), f"{command} ended with {ended.code}"
        return ended.seconds if ended.code == 0 else None

    def onepass(
        self,
        *arguments: object,
        log: Path,
        after: float | None = None,
        change: int | None = None,
        limit: float = 120,
    ) -> Ended:
        """Run the command line, to its end or until it is killed.

        Args:
            arguments: of ``onepass``.
            log: its stdout and stderr are appended to this file.
            after: kill it after so many seconds.
            change: kill it right before its nth change to files, counted from 0.
            limit: most seconds; after these it hangs, and is killed.
        """
        command = ["onepass", *arguments]
        moment = {"after": after, "change": change}
        return Ended(*self._ask(command=command, log=log, limit=limit, **moment))

    def start(self, *arguments: object, log: Path) -> int:
        """Start the command line, as a server; its process, for ``kill``."""
        (pid,) = self._ask(command=["onepass", *arguments], log=log, start=True)
        return int(pid)

    def kill(self, pid: int) -> Ended:
        """Kill what ``start`` started; its code is -9 where it still ran."""
        return Ended(*self._ask(kill=pid))

    def _ask(self, *, command: Sequence[object] = (), **job: Any) -> list[Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        job["command"] = [str(part) for part in command]
        print(json.dumps(job, default=str), file=self._child.stdin, flush=True)
        answer: list[Any] = json.loads(self._child.stdout.readline())
        return answer


def run_command(name: str, index: Path, *arguments: str) -> None:
    """Run a command on an index, in this process."""
    from index.build.update import add_runs, compact, delete_rows
    from index.build.version import build_index
    from index.build.versions import promote, prune
    from index.config import IndexConfig
    from index.search.filters import Filter

    if name == "build":
        build_index([Path(arguments[0])], index, IndexConfig(factory=arguments[1]))
    elif name == "add":
        add_runs(index, [Path(arguments[0])])
    elif name == "delete":
        delete_rows(index, Filter(arguments[0]))
    elif name == "compact":
        compact(index)
    elif name == "promote":
        promote(index, arguments[0])
    elif name == "prune":
        prune(index, int(arguments[0]))
    else:
        raise ValueError(name)


def _child(job: dict[str, Any], counts: int) -> int:
    import faiss

    from common.storage import is_remote, to_path

    command, change = job["command"], job.get("change")
    os.setsid()
    if log := job.get("log"):
        with open(log, "ab") as stream:  # noqa: PTH123
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
    changes = lambda: 0  # noqa: E731
    if change is not None:
        changes = die_at(change, in_store=command[0] != "onepass" and is_remote(command[1]))
    if command[0] == "onepass":
        code = _command_line(command)
        os.write(counts, str(changes()).encode())
        return code
    faiss.omp_set_num_threads(1)
    try:
        run_command(command[0], to_path(command[1]), *command[2:])
    except BaseException as error:
        print(f"{command}: {error!r}", file=sys.stderr, flush=True)
        return 1
    return 0


def _command_line(command: list[str]) -> int:
    """``python -m onepass`` in this process, to its exit code."""
    from onepass.cli.main import main

    sys.argv = command
    try:
        main()
    except SystemExit as exited:
        code: Any = exited.code or 0
        return int(code)
    except BaseException:  # this process must not go on as the fork server
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _wait(pid: int, seconds: float) -> int | None:
    """The exit status of a child; None where it still runs after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if (left := deadline - time.monotonic()) <= 0:
            return None
        time.sleep(min(left, 0.001))


def _kill(pid: int) -> int:
    """Kill a child, which was not waited for, and all of its session; its exit status."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has only just been forked, and leads no session yet
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _outliving(leader: int, seconds: float = 5) -> int:
    """Processes of a session that are still there after so many seconds; those are killed."""
    deadline = time.monotonic() + seconds
    while True:
        stats = {int(entry.name): proc_stat(int(entry.name)) for entry in _processes()}
        left = [
            pid for pid, stat in stats.items() if stat and stat[0] != "Z" and stat[3] == str(leader)
        ]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


def _processes() -> list[Path]:
    return list(Path("/proc").glob("[0-9]*"))


def _finish(job: dict[str, Any], pid: int) -> Ended:
    """Wait for a child, or kill it when that is due."""
    began, after = time.monotonic(), job.get("after")
    code = _wait(pid, job.get("limit", 600) if after is None else after)
    if code is None:
        killed = _kill(pid)
        code = None if after is None else killed
    seconds = time.monotonic() - began
    return Ended(code, seconds, _outliving(pid))


def _import_command_line() -> None:
    import tracks.live.session  # noqa: F401


def _serve() -> None:
    # Imported once, for all children; pyarrow imports pandas when it first makes an array.
    import pandas  # noqa: F401

    import index.build.update
    import index.build.versions  # noqa: F401
    from common import lease

    lease.LeaseTimeouts = QUICK  # type: ignore[assignment,misc]
    if "--command-line" in sys.argv:
        _import_command_line()

    for line in sys.stdin:
        job = json.loads(line)
        if pid := job.get("kill"):
            code = _wait(pid, 0)
            ended = Ended(_kill(pid) if code is None else code, 0.0, _outliving(pid))
            print(json.dumps(ended), flush=True)
            continue
        counts, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os._exit(_child(job, write_end))
        os.close(write_end)
        answer = [pid]
        if not job.get("start"):
            answer = [*_finish(job, pid)[:3], int(os.read(counts, 20) or 0)]
        os.close(counts)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
