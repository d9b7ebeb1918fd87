"""Through how many files one row goes, from ``extract`` to a hit of ``query``.

Runs the three commands on a few drawn photos in one process, on the local executor, and lists the
project's files of which a function was called; importing a file does not count.

    python benchmarks/row_path.py [TREE] [--json]

2026-11-30, this tree and that of the version before: see docs/architecture.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import json, sys, threading
from pathlib import Path
import numpy as np
from PIL import Image
root, work = sys.argv[1], Path(sys.argv[2])
(work / "photos").mkdir()
for number in range(4):
    pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(work / "photos" / f"{number}.png")
seen = set()
def profile(frame, event, _):
    if event == "call" and frame.f_code.co_name != "<module>":
        seen.add(frame.f_code.co_filename)
try:
    from onepass.cli.main import main
except ImportError:
    from onepass import main
threading.setprofile(profile)
sys.setprofile(profile)
for command in (
    f"extract {work}/photos --model tiny --precision fp32 --engine eager --executor local --out {work}/run",
    f"index build {work}/run --out {work}/index --executor local",
    f"query {work}/index --image {work}/photos/1.png -k 2",
):
    sys.argv = ["onepass", *command.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, command
sys.setprofile(None)
here = [file[len(root) + 1 :] for file in seen if file.startswith(root + "/")]
print(json.dumps(sorted(f for f in here if not f.startswith((".venv", "tests", "benchmarks")))))
"""


def files_on_the_way(tree: Path) -> list[str]:
    """Files of ``tree`` of which extract, index build or query called a function."""
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(tree), work],
            env=os.environ | {"PYTHONPATH": str(tree)},
            cwd=tree,
            capture_output=True,
            text=True,
            check=True,
        )
    files: list[str] = json.loads(done.stdout.splitlines()[-1])
    return files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--json", action="store_true", help="name the files, as JSON")
    given = parser.parse_args()
    files = files_on_the_way(given.tree.resolve())
    print(json.dumps(files, indent=2) if given.json else f"{len(files)} files")


if __name__ == "__main__":
    main()
