"""Boxes of every kind of source through the command line: the pixels that were cut are Pillow's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import ExifTags, Image, ImageOps

import onepass
from pipelines.detections import BOX
from pipelines.heads.random_backbone import extract_untrained
from tests.helpers.ami import DETECTIONS, change, fill
from tests.helpers.annotations import coco, megadetector
from tests.helpers.commands import here
from tests.helpers.pictures import drawn
from tests.helpers.refusals import only_error

SIZE = (120, 80)
STORED = (10, 20, 50, 60)
OPTIONS = ("--model", "tiny", "--precision", "fp32", "--engine", "eager", "--executor", "local")


def photo(file: Path, seed: int, orientation: int = 1) -> Image.Image:
    """Store a picture; the same upright, as Pillow turns it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    drawn(seed, width=SIZE[0], height=SIZE[1]).save(file, exif=exif)
    with Image.open(file) as stored:
        return ImageOps.exif_transpose(stored).convert("RGB")


def stored_crop(file: Path, orientation: int) -> Image.Image:
    """The stored box cut from the stored pixels, and then turned."""
    with Image.open(file) as image:
        part = image.convert("RGB").crop(STORED)
    part.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(part)


def extract(source: object, out: Path, *options: object) -> onepass.Run:
    done = here("extract", source, "--out", out, *OPTIONS, *options)
    assert done.returncode == 0, done.stderr
    verified = here("inspect", out, "--verify")
    assert verified.returncode == 0, verified.stderr
    return onepass.open_run(out)


def embedding_of(crop: Image.Image, folder: Path) -> np.ndarray:
    """What a crop that lies in a folder as a file of its own gives."""
    folder.mkdir()
    crop.save(folder / "crop.png")
    return extract(folder, folder.with_name(f"{folder.name}-run")).embeddings()[0]


def assert_rows(run: onepass.Run, crops: list[Image.Image], folder: Path) -> None:
    table = run.to_pandas(["error", *BOX])
    assert table["error"].isna().all()
    for number, (vector, crop) in enumerate(zip(run.embeddings(), crops, strict=True)):
        expected = embedding_of(crop, folder / f"{run.path.name}-crop{number}")
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)


def test_a_csv_with_other_names(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.jpg", 1)
    (tmp_path / "rows.csv").write_text("image,xmin,ymin,xmax,ymax\na.jpg,10,20,50,60\n")
    run = extract(tmp_path / "rows.csv", tmp_path / "run")
    assert run.to_arrow(list(BOX)).to_pylist() == [dict(zip(BOX, STORED, strict=True))]
    assert_rows(run, [image.crop(STORED)], tmp_path)


@pytest.mark.parametrize("orientation", [3, 6])
def test_megadetector(tmp_path: Path, orientation: int) -> None:
    image = photo(tmp_path / "a.jpg", 2, orientation)
    shares = [0.25, 0.125, 0.5, 0.25]
    source = megadetector(
        tmp_path / "md.json",
        [{"file": "a.jpg", "detections": [{"category": "1", "conf": 0.9, "bbox": shares}]}],
    )
    width, height = image.size
    box = (width // 4, height // 8, 3 * width // 4, 3 * height // 8)
    run = extract(source, tmp_path / "run")
    assert run.to_arrow(["source_label"]).to_pylist() == [{"source_label": "animal"}]
    assert_rows(run, [image.crop(box)], tmp_path)


def test_coco(tmp_path: Path) -> None:
    images = [photo(tmp_path / f"{n}.jpg", n, orientation) for n, orientation in enumerate((1, 8))]
    annotations = [{"image_id": n, "category_id": 1, "bbox": [10, 20, 40, 40]} for n in (0, 1)]
    about = [
        {"id": n, "file_name": f"{n}.jpg", "width": image.width, "height": image.height}
        for n, image in enumerate(images)
    ]
    source = coco(tmp_path / "coco.json", about, annotations)
    assert_rows(
        extract(source, tmp_path / "run"), [image.crop(STORED) for image in images], tmp_path
    )


@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_stored_boxes_of_a_rotated_image(tmp_path: Path, orientation: int) -> None:
    image = photo(tmp_path / "a.jpg", 4, orientation)
    crop = stored_crop(tmp_path / "a.jpg", orientation)
    (tmp_path / "rows.csv").write_text("image,x,y,w,h\na.jpg,10,20,40,40\n")
    source = tmp_path / "rows.csv"
    assert_rows(extract(source, tmp_path / "stored", "--box-frame", "stored"), [crop], tmp_path)
    assert_rows(extract(source, tmp_path / "upright"), [image.crop(STORED)], tmp_path)
    again = here("extract", source, "--out", tmp_path / "stored", *OPTIONS)  # another command
    assert only_error(again.returncode, again.stdout, again.stderr)


def test_an_ami_database_of_a_rotated_image(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    fill(url, tmp_path / "traps", frames=1, boxes=1, empty=())
    photo(tmp_path / "traps" / "north" / "shot0.jpg", 5, 3)
    crop = stored_crop(tmp_path / "traps" / "north" / "shot0.jpg", 3)
    change(url, DETECTIONS.update().values(bbox=list(STORED)))
    other = drawn(100, width=160, height=120)
    other.save(tmp_path / "traps" / "south" / "shot0.png")
    run = extract(url, tmp_path / "run")
    vector = run.embeddings()[run.to_pandas(["database_id"])["database_id"].tolist().index(1)]
    np.testing.assert_allclose(vector, embedding_of(crop, tmp_path / "crop"), rtol=0, atol=1e-5)
    assert here("link", tmp_path / "run").returncode == 0
    written = json.loads(here("database", "write", tmp_path / "run", url, "--json").stdout)
    assert written["columns"]["cnn_features"]["filled"] == 2  # neither is another detection by now


def test_an_untrained_network_is_given_the_same_boxes(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 1, 6)
    (tmp_path / "rows.csv").write_text("image,x,y,w,h\na.jpg,0.25,0.5,0.25,0.25\n")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "own.pth")
    given = ("--box-units", "normalised", "--box-frame", "stored", "--boxes", "cxcywh")
    source = tmp_path / "rows.csv"
    model = ("--model", "timm:test_resnet", "--checkpoint", tmp_path / "own.pth")
    run = extract(source, tmp_path / "run", *given, *model)
    other = extract_untrained(run, "pooled", tmp_path / "untrained", "local", lambda _: None)
    columns = ["image", *BOX]
    assert other.to_arrow(columns).equals(run.to_arrow(columns))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ('image,bbox\na.jpg,"[10, 20, 50, 60]"\n', ()),
        ("image,x1,y1,x2,y2\na.jpg,0.1,0.2,0.5,0.6\n", ()),
        ("image,xmin,ymin\na.jpg,10,20\n", ()),
        ("image,x1,y1,x2,y2\na.jpg,10,20,50,60\n", ("--box-units", "normalised")),
        ("image,night\na.jpg,1\n", ("--boxes", "xywh")),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_line(
    tmp_path: Path, text: str, options: tuple[Any, ...]
) -> None:
    photo(tmp_path / "a.jpg", 1)
    (tmp_path / "rows.csv").write_text(text)
    done = here("extract", tmp_path / "rows.csv", "--out", tmp_path / "run", *OPTIONS, *options)
    message = only_error(done.returncode, done.stdout, done.stderr)
    assert "--box" in message or "x1" in message
    assert not (tmp_path / "run").exists()
