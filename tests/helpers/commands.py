"""The command line: in a process of its own, as users run it, or in this one, ten times as fast."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from onepass.cli.main import main

ROOT = Path(__file__).parents[2]


def onepass(*arguments: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run ``onepass`` with ``arguments`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "onepass", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process: modules are imported already, and its Ray session is used."""
    command = ["onepass", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", command),
        patch("os._exit", sys.exit),  # the real one would end the tests
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exited:
            code = exited.code or 0
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
