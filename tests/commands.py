"""The command line as users run it: a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def onepass(*arguments: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run ``onepass`` with ``arguments`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "onepass", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
