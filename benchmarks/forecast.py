"""Does ``extract --dry-run`` foresee what happens? Three jobs, each dry and then for real.

    python benchmarks/forecast.py IMAGE_FOLDER [--rounds 3] [--scale 1.0] [--json out.json]

- **photos**: EfficientNet-Lite0 on whole photos, what it chooses by itself.
- **crops**: torchvision's MobileNetV3-Large, random weights, on several boxes a photo.
- **tiny**: the network that costs next to nothing, on many small crops: decoding and
  overhead are all there is.

Dry run and job are processes of their own, in turn, because a shared machine is another one a
minute later. Told is the median of the ratios, and both are quoted: steady images/s, and seconds
from the beginning to the manifest (Python's own start is not in it). IMAGE_FOLDER's images are
repeated under new names where it has fewer than are needed. ``--scale 0.2`` makes smaller jobs.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from _common import CORES, ENVIRONMENT, HERE, crop_images, link_images
from PIL import Image

from pipelines.events.log import read_events

ALLOWED = 0.15
_BOXES = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.6, 0.6), (0.3, 0.2, 0.9, 0.9), (0.5, 0.5, 1.0, 1.0))


class Job(NamedTuple):
    """One job: its name, and what ``extract`` is given."""

    name: str
    arguments: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the jobs' rows")
    parser.add_argument("--only", nargs="*", help="jobs: photos, crops, tiny")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="onepass-forecast-"))
    found: dict[str, list[dict[str, float]]] = {}
    try:
        chosen = [j for j in jobs(given, work) if not given.only or j.name in given.only]
        for number in range(given.rounds):
            for job in chosen:
                one = one_round(job, work / f"{job.name}-{number}")
                found.setdefault(job.name, []).append(one)
                print(f"round {number + 1}, {job.name}: {words(one)}", flush=True)
    finally:
        shutil.rmtree(work)
    report(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def jobs(given: argparse.Namespace, work: Path) -> list[Job]:
    """The three jobs on images made in ``work``."""
    photos = link_images(given.images, work / "photos", max(16, int(8000 * given.scale)))
    boxed = link_images(given.images, work / "boxed", max(16, int(2000 * given.scale)))
    small = crop_images(given.images, work / "squares", 10**6)
    many = link_images(small, work / "small", max(16, int(40_000 * given.scale)))
    return [
        Job("photos", [str(photos), "--model", "lite0"]),
        Job(
            "crops",
            [str(boxes_of(boxed)), "--model", "torchvision:mobilenet_v3_large", "--random-weights"],
        ),
        Job("tiny", [str(many), "--model", "tiny"]),
    ]


def boxes_of(folder: Path) -> Path:
    """A manifest of four boxes a photo."""
    file = folder / "boxes.csv"
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "x1", "y1", "x2", "y2"])
        for image in sorted(folder.glob("*.jpg")):
            with Image.open(image) as opened:
                width, height = opened.size
            for left, top, right, bottom in _BOXES:
                box = left * width, top * height, right * width, bottom * height
                rows.writerow([image.name, *(round(side, 1) for side in box)])
    return file


def one_round(job: Job, out: Path) -> dict[str, float]:
    """Foretell the job, then do it."""
    told = onepass(job, out, "--dry-run")["forecast"]
    done = onepass(job, out)
    rate = steady(read_events(out), told["lanes"]["actors"])
    shutil.rmtree(out)
    session = done["session"]
    return {
        "rows": told["rows"],
        "told seconds": told["seconds"],
        "seconds": done["seconds"],
        "told rate": told["pace"]["rate"],
        "rate": rate,
        "told start": told["start_seconds"],
        "start": session["start_seconds"],
        "dry run": told["sample_seconds"],
        "same limit": float(told["limit"] == session["limit"]),
    }


def steady(events: list[dict[str, Any]], actors: int) -> float:
    """Images a second while all actors are warm and none has run out of work.

    Over the same number of whole blocks for each actor: from everyone's first answer to the
    last that leaves everyone another.
    """
    answered = sorted(
        (line["at"] + line["seconds"], line["rows"])
        for line in events
        if line["event"] == "block" and line["stage"] == "forward"
    )
    first = actors - 1
    last = len(answered) - 1 - actors
    last -= (last - first) % actors
    if last <= first:
        sys.exit(f"{len(answered)} blocks are too few for a steady state of {actors} actors")
    rows = sum(rows for _, rows in answered[first + 1 : last + 1])
    return float(rows / (answered[last][0] - answered[first][0]))


def onepass(job: Job, out: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "onepass", "extract", *job.arguments, "--out", str(out)]
    done = subprocess.run(
        [*command, "--json", *more],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=3600,
        env=ENVIRONMENT,
        cwd=HERE.parent,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def words(one: dict[str, float]) -> str:
    return (
        f"{one['told seconds']:.0f} s told, {one['seconds']:.0f} s taken; {one['told rate']:.0f} "
        f"images/s told, {one['rate']:.0f} seen; start {one['told start']:.0f} s told, "
        f"{one['start']:.0f} s until the first block; dry run {one['dry run']:.0f} s"
    )


def report(found: dict[str, list[dict[str, float]]]) -> None:
    print(
        f"\n{CORES} cores, {platform.processor() or platform.machine()}; medians, and of the "
        "ratios told / happened"
    )
    print("  job         rows   seconds told  taken  ratio    images/s told   seen  ratio   limit")
    for name, rounds in found.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        seconds = [one["told seconds"] / one["seconds"] for one in rounds]
        rates = [one["told rate"] / one["rate"] for one in rounds]
        off = max(abs(statistics.median(seconds) - 1), abs(statistics.median(rates) - 1))
        print(
            f"  {name:<8}{middle['rows']:>8.0f}   {middle['told seconds']:>12.1f} "
            f"{middle['seconds']:>6.1f}  {ratio(seconds)}  {middle['told rate']:>13.0f} "
            f"{middle['rate']:>6.0f}  {ratio(rates)}  "
            f"{'same' if middle['same limit'] >= 0.5 else 'other'}   "
            f"off by {off:.0%}, within {ALLOWED:.0%}: {'met' if off <= ALLOWED else 'missed'}"
        )


def ratio(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


if __name__ == "__main__":
    main()
