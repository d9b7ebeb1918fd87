"""Python processes of our own beside this one: for what may end its process, or needs another.

Not ``multiprocessing``, which runs the script of whoever called us once more. A child ends by itself
when its parent does, however that ended, because the pipe that it reads from does.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from common.errors import WorkError

Item = TypeVar("Item")
Result = TypeVar("Result")


class ChildDiedError(WorkError):
    """A child ended in the middle of a call."""


class Child:
    """A process that calls functions, one after another. Close it, or use it as a context.

    Functions, what they are given and what they return travel by pickle.
    """

    def __init__(self) -> None:
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # noqa: PTH109
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.children"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self, function: Callable[[Item], Result], item: Item, *, seconds: float | None = None
    ) -> Result:
        """``function(item)``, in the child.

        Args:
            function: by the name of its module; a partial of such a one.
            item: what it is given.
            seconds: after which the child is ended; None: never.

        Raises:
            ChildDiedError: the call ended the child, or took longer.
            Exception: the call's own.
        """
        self.send(function, item)
        result: Result = self.receive(seconds=seconds)
        return result

    def send(self, function: Callable[[Item], Result], item: Item) -> None:
        """Begin a call, whose result is fetched by ``receive``."""
        assert self._process.stdin is not None
        try:
            pickle.dump((function, item), self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # ``receive`` says what ended it

    def receive(self, *, seconds: float | None = None) -> Any:
        """Wait for what was sent; as ``call``."""
        assert self._process.stdout is not None
        timer = None
        if seconds is not None:
            timer = threading.Timer(seconds, self._process.kill)
            timer.start()
        try:
            error, result = pickle.load(self._process.stdout)  # noqa: S301 - from our own child
        except (EOFError, pickle.UnpicklingError):
            raise ChildDiedError(self._ending(seconds)) from None
        finally:
            if timer is not None:
                timer.cancel()
        if error is not None:
            raise error
        return result

    def _ending(self, seconds: float | None) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            late = f"took over {seconds:g} s, or " if seconds is not None else ""
            return f"{late}ended its process: all memory was used, or somebody killed it"
        if code < 0:
            return f"ended its process ({signal.Signals(-code).name})"
        return f"ended its process (exit code {code})"

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue


def _serve() -> None:
    """Call what the parent sends, until it sends nothing more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print on stdout
    while True:
        try:
            function, item = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
        except EOFError:
            return
        error, result = None, None
        try:
            result = function(item)
        except Exception as raised:
            error = raised
        pickle.dump((error, result), answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
