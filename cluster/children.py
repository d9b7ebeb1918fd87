"""Child processes that call functions: for work that may crash, or that needs its own process.

Not ``multiprocessing``, which runs the caller's script once more. A child ends by itself when its
parent does, however the parent ends, because the pipe that it reads from is closed.
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
    """A process that calls functions, one after another. Close it, or use it in a ``with`` block.

    Functions, their arguments and their results are pickled.
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
            function: one at the top of a module, or a partial of such a function.
            item: its argument.
            seconds: after which the child is ended; None: never.

        Raises:
            ChildDiedError: the call ended the child, or took longer.
            Exception: the error that the function raised.
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
            pass  # ``receive`` raises and says how the child ended

    def receive(self, *, seconds: float | None = None) -> Any:
        """The result of the call that was sent; arguments and errors as of ``call``."""
        assert self._process.stdout is not None
        timer = None
        if seconds is not None:
            timer = threading.Timer(seconds, self._process.kill)
            timer.start()
        try:
            error, result = pickle.load(self._process.stdout)  # noqa: S301 - from our own child
        except (EOFError, pickle.UnpicklingError):
            raise ChildDiedError(self._reason(seconds)) from None
        finally:
            if timer is not None:
                timer.cancel()
        if error is not None:
            raise error
        return result

    def _reason(self, seconds: float | None) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            timeout = f"took over {seconds:g} s, or " if seconds is not None else ""
            return f"{timeout}ended its process: all memory was used, or it was killed"
        if code < 0:
            return f"ended its process ({signal.Signals(-code).name})"
        return f"ended its process (exit code {code})"

    def close(self) -> None:
        """End the process, in the middle of a call as well."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue


def _serve() -> None:
    """Call what the parent sends, until the parent closes the pipe."""
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
        except Exception as raised:  # process boundary: the parent raises it again
            error = raised
        pickle.dump((error, result), answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
