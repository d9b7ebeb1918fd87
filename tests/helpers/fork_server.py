"""Commands on an index in processes that are killed: at the nth change to files, or at a moment.

``ForkServer`` starts one Python that has imported everything and forks a child for every command,
so that a kill costs tenths of a second. It is run as ``python -m tests.helpers.fork_server``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from common.lease import LeaseTimeouts

CHANGES = frozenset(("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"))


# Leases of killed processes expire, but sooner than for users.
QUICK = partial(LeaseTimeouts, renew_interval=0.1, expiry=0.6, confirm_delay=0.05)


class ForkServer:
    """Runs commands in children of a child; ``with ForkServer() as server: server.run(…)``."""

    def __enter__(self) -> ForkServer:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.fork_server"],
            cwd=Path(__file__).parents[2],
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
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        job = {"command": [str(part) for part in command], "change": change, "after": after}
        print(json.dumps(job), file=self._child.stdin, flush=True)
        status, seconds = json.loads(self._child.stdout.readline())
        assert status in (0, -signal.SIGKILL), f"{command} ended with {status}"
        return seconds if status == 0 else None


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


def _die_at(change: int, *, in_store: bool) -> None:
    left = change

    def count_change() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 0o3
        if event in CHANGES or writes:
            count_change()

    if not in_store:
        sys.addaudithook(audit)
        return
    from common import storage
    from index.storage import remote

    arrow, write_bytes = remote.arrow, storage.write_bytes

    class CountedClient:
        """A store's client; a kill comes before a change to it, or in the middle of a file."""

        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            if name in ("open_output_stream", "delete_file", "delete_dir"):
                count_change()
            return getattr(self._client, name)

    def counted_arrow(path: Path) -> tuple[Any, str]:
        client, name = arrow(path)
        return CountedClient(client), name

    def counted_write(file: Path, data: bytes) -> None:
        count_change()
        write_bytes(file, data)

    remote.arrow, storage.write_bytes = counted_arrow, counted_write


def _child(command: list[str], change: int | None) -> int:
    import faiss

    from common.storage import is_remote, to_path

    faiss.omp_set_num_threads(1)
    if change is not None:
        _die_at(change, in_store=is_remote(command[1]))
    try:
        run_command(command[0], to_path(command[1]), *command[2:])
    except BaseException as error:
        print(f"{command}: {error!r}", file=sys.stderr, flush=True)
        return 1
    return 0


def _serve() -> None:
    # Imported once, for all children; pyarrow imports pandas when it first makes an array.
    import pandas  # noqa: F401

    import index.build.update
    import index.build.versions  # noqa: F401
    from common import lease

    lease.LeaseTimeouts = QUICK  # type: ignore[assignment,misc]

    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os._exit(_child(job["command"], job["change"]))
        if job["after"] is not None:
            time.sleep(job["after"])
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so no other process has this id
        _, status = os.waitpid(pid, 0)
        seconds = time.monotonic() - began
        print(json.dumps([os.waitstatus_to_exitcode(status), seconds]), flush=True)


if __name__ == "__main__":
    _serve()
