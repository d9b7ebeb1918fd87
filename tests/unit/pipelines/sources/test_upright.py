"""Boxes in stored pixels and shares of the size, turned upright when a source is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from common.errors import SourceError
from pipelines.detections import BOX, make_detection_id
from pipelines.sources.boxes import BoxOptions
from pipelines.sources.contents import with_hashes
from pipelines.sources.read import read_source
from tests.helpers.ami import DETECTIONS, change, fill

STORED = (8, 16, 32, 26)
SIZE = (80, 48)


def photo(file: Path, orientation: int, *, kind: str = "JPEG") -> tuple[int, int, int, int]:
    """A stored image with one white rectangle at ``STORED``; where it is in the upright image."""
    image, exif = Image.new("RGB", SIZE), Image.Exif()
    image.paste((255, 255, 255), STORED)
    exif[ExifTags.Base.Orientation] = orientation
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, kind, exif=exif, quality=95)
    with Image.open(file) as opened:
        pixels = np.asarray(ImageOps.exif_transpose(opened))
    rows, columns = np.nonzero(pixels[..., 0] > 127)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def boxes_of(plan: Any) -> list[tuple[float, ...]]:
    return list(zip(*(plan.table[name].to_pylist() for name in BOX), strict=True))


def photos(folder: Path) -> list[tuple[int, ...]]:
    return [photo(folder / f"{number}.jpg", number) for number in range(1, 9)]


def manifest(folder: Path, boxes: list[tuple[Any, ...]]) -> str:
    lines = [f"{n}.jpg," + ",".join(map(str, box)) for n, box in enumerate(boxes, start=1)]
    (folder / "rows.csv").write_text("image,x1,y1,x2,y2\n" + "\n".join(lines) + "\n")
    return str(folder / "rows.csv")


def test_stored_boxes_of_all_orientations(tmp_path: Path) -> None:
    upright = photos(tmp_path)
    source = manifest(tmp_path, [STORED] * 8)
    plan = read_source(source, boxes=BoxOptions(frame="stored"))
    assert boxes_of(plan) == upright
    assert plan.table["error"].null_count == 8
    assert len(plan.notes) == 1  # seven of them are rotated
    assert boxes_of(read_source(source)) == [STORED] * 8  # said to be upright by default
    hashed = with_hashes(plan).table.to_pylist()
    for row, box in zip(hashed, upright, strict=True):
        assert row["detection_id"] == make_detection_id(row["image"], box, row["image_hash"])


@pytest.mark.parametrize("frame", ["stored", "upright", None])
def test_shares_of_the_size(tmp_path: Path, frame: Any) -> None:
    upright = photos(tmp_path)
    sizes = [SIZE if number < 5 or frame == "stored" else SIZE[::-1] for number in range(1, 9)]
    given = [STORED] * 8 if frame == "stored" else upright
    shares = [tuple(np.array(b) / [*s, *s]) for b, s in zip(given, sizes, strict=True)]
    source = manifest(tmp_path, [tuple(map(float, share)) for share in shares])
    with pytest.raises(SourceError, match="box_units"):
        read_source(source)
    plan = read_source(source, boxes=BoxOptions(units="normalised", frame=frame))
    np.testing.assert_allclose(boxes_of(plan), upright, atol=1e-4)


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    photo(tmp_path / "1.jpg", 3)
    (tmp_path / "2.jpg").write_text("not an image")
    shares = manifest(tmp_path, [(0.1, 0.2, 0.3, 0.4)] * 3 + [("", "", "", "")])
    plan = read_source(shares, boxes=BoxOptions(units="normalised"))
    errors = plan.table["error"].to_pylist()
    assert [error and error.partition(":")[0] for error in errors] == [
        *(None, "not an image", "missing file", None)  # the last one has no box
    ]
    assert boxes_of(plan)[1:] == [(None,) * 4] * 3
    stored = manifest(tmp_path, [STORED] * 3)
    plan = read_source(stored, boxes=BoxOptions(frame="stored"))
    assert boxes_of(plan)[1:] == [STORED] * 2  # decoding says what is wrong
    assert plan.table["error"].null_count == 3


def test_only_the_images_of_a_limit_are_opened(tmp_path: Path) -> None:
    photo(tmp_path / "1.jpg", 3)
    source = manifest(tmp_path, [STORED] * 500)
    plan = read_source(source, limit=1, boxes=BoxOptions(frame="stored"))
    assert plan.table.num_rows == 1
    seen: list[tuple[int, int]] = []
    read_source(source, boxes=BoxOptions(frame="stored"), report=lambda *done: seen.append(done))
    assert seen == [(500, 500)]


def test_stored_boxes_of_a_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("image,x1,y1,x2,y2\nclip.mp4#frame=3,1,2,3,4\n")
    with pytest.raises(SourceError, match="box_frame"):
        read_source(str(tmp_path / "rows.csv"), boxes=BoxOptions(frame="stored"))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_boxes_of_an_ami_database_are_in_stored_pixels(tmp_path: Path, orientation: int) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    fill(url, tmp_path / "traps", frames=1, boxes=1, empty=())
    upright = photo(tmp_path / "traps" / "north" / "shot0.jpg", orientation)
    change(url, DETECTIONS.update().where(DETECTIONS.c.id == 1).values(bbox=list(STORED)))
    plan = read_source(url)
    (row,) = (row for row in plan.table.to_pylist() if row["database_id"] == 1)
    assert tuple(row[name] for name in BOX) == upright
    assert len(plan.notes) == (orientation != 1)
    plan = read_source(url, boxes=BoxOptions(frame="upright"))
    (row,) = (row for row in plan.table.to_pylist() if row["database_id"] == 1)
    assert tuple(row[name] for name in BOX) == STORED
    with pytest.raises(SourceError, match="boxes"):
        read_source(url, boxes=BoxOptions(layout="xywh"))
