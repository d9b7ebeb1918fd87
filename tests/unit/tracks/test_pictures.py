"""Pictures of tracks, on scenes a few pixels wide."""

from __future__ import annotations

import csv
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import WorkError
from tracks.pictures.annotate import COLOURS, GREY, Annotator
from tracks.pictures.review import to_csv
from tracks.pictures.sheet import BLANK, GREEN, INK, RED, Tile, contact_sheet
from tracks.pictures.video import encode


def blue_first(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (5, 3, 1)]


def has(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == np.array(colour)).all(axis=-1).any())


def test_a_sheet_has_the_borders_that_its_tiles_name() -> None:
    crop = Image.new("RGB", (30, 60), "white")
    sheet = contact_sheet(
        [[Tile(crop, "query"), Tile(crop, "0.9\n" + "a" * 99, GREEN)], [Tile(None, "gone")]],
        title="title",
    )
    assert [has(sheet, colour) for colour in (INK, GREEN, BLANK, RED)] == [True, True, True, False]
    assert (np.asarray(sheet)[:, -15:] == 255).all()  # a long line is cut
    assert contact_sheet([]).width > 0


@pytest.mark.parametrize("first", [*"=+-@\t\r\n'", "\uff1d", "\uff0b"])
def test_a_name_that_a_spreadsheet_would_compute_is_text(first: str) -> None:
    name = f'{first}cmd|" /C calc"!A0'
    row = {"sequence": name, "image": f"a{name}", "margin": -0.5, "cost": None, "other": 1}
    [read] = csv.DictReader(io.StringIO(to_csv([row]), newline=""))
    assert read["sequence"] == f"'{name}"
    assert (read["image"], read["margin"], read["cost"]) == (f"a{name}", "-0.5", "")


@pytest.mark.parametrize("lost", [False, True])
def test_a_lost_track_has_corners_alone(lost: bool) -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    pen = Annotator((200, 100), tail=9)
    for right in (60.0, 120.0):
        image[:] = 255
        box = np.array([[right - 40, 30, right, 70]])
        pen.tracks(image, box, np.array([13]), ["7"], np.array([lost and right > 60]))
    pen.unnamed(image, np.array([[150.0, 30, 190, 70]]))
    pen.caption(image, "frame 3")
    tint = (image == blue_first(COLOURS[1])).all(axis=2)  # colours come round after twelve
    assert tint[70, 81:119].sum() == pytest.approx(8 if lost else 38, abs=3)
    assert tint[50, 42:79].all()  # from where it was before
    assert (image[70, 151:189] == blue_first(GREY)).all()
    assert (image[-8:, 60:140] == 0).any()  # the caption


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_video_is_written_with_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    monkeypatch.setattr(av, "codecs_available", {codec})
    wrote: list[int] = []
    images = [np.full((48, 64, 3), grey, np.uint8) for grey in (40, 120, 200)]
    file = tmp_path / "a.mp4"
    assert encode(file, iter(images), (64, 48), Fraction(5, 2), wrote.append) == codec
    assert wrote == [1, 2, 3]
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.pix_fmt) == (Fraction(5, 2), "yuv420p")
        shown = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(stream)]
    assert shown == pytest.approx([40, 120, 200], abs=3)
    with pytest.raises(WorkError):
        encode(tmp_path / "gone" / "a.mp4", iter(images), (64, 48), Fraction(5), wrote.append)
