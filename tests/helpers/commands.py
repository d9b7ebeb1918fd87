"""The command line: as users run it, in a process of its own, or in this one, in a tenth of the time."""

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
    """Run ``onepass`` with ``arguments`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "onepass", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process: its imports are done, and a Ray that it has joined is used."""
    command = ["onepass", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", command),
        patch("os._exit", sys.exit),  # which would end the tests
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
