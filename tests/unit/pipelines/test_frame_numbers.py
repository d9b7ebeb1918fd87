"""The order of images by time and name."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from pipelines.frame_names import file_in, natural, split_and_category
from pipelines.frame_numbers import number_frames


def numbered(
    images: dict[str, str | None], sequence: str = "s"
) -> tuple[dict[str, int], list[str]]:
    """Frame of each image, and the notes; images with their times, in any order."""
    names = np.random.default_rng(0).permutation(list(images)).tolist()
    times = [
        images[name] and datetime.fromisoformat(f"2023-10-29 {images[name]}") for name in names
    ]
    keys = pa.table(
        {
            "sequence": [sequence] * len(names),
            "image": names,
            "timestamp": pa.array(times, pa.timestamp("us")),
        }
    )
    notes: list[str] = []
    return dict(zip(names, number_frames(keys, notes.append).to_pylist(), strict=True)), notes


def by_frame(images: dict[str, str | None]) -> list[str]:
    frames, _ = numbered(images)
    assert sorted(frames.values()) == list(range(len(images)))
    return sorted(images, key=frames.__getitem__)


@pytest.mark.parametrize(
    "names",
    [
        [f"{number}.jpg" for number in range(1, 13)],
        ["a.jpg", "a1.jpg", "a1b9.jpg", "a1b10.jpg", "a2.jpg", "a10.jpg", "b.jpg"],
        ["100MEDIA/DSC_9999.JPG", "101MEDIA/DSC_0001.JPG", "1000MEDIA/DSC_0001.JPG"],
        ["a/2.jpg", "a/10.jpg", "a10/1.jpg", "a b/1.jpg"],
        ["v1.2.jpg", "v1.9.jpg", "v1.10.jpg", "v2.jpg"],
        ["٢.jpg", "10.jpg", "٣٣.jpg"],  # 2, 10, 33
        ["x" + "9" * 5000, "x1" + "0" * 5000, "x²", "x³"],
    ],
)
def test_names_are_in_natural_order(names: list[str]) -> None:
    assert by_frame(dict.fromkeys(names)) == names
    assert sorted(dict.fromkeys(reversed(names)), key=natural) == names


def test_the_order_is_total_whatever_the_names() -> None:
    """Numbers of equal value are told apart, so that two runs cannot differ."""
    names = [
        "1.jpg",
        "01.jpg",
        "001.jpg",
        "\N{ARABIC-INDIC DIGIT ONE}.jpg",
        "0.jpg",
        "00.jpg",
        "",
        "/",
        "a/",
        "a\0",
    ]
    assert len({natural(name) for name in names}) == len(names)
    assert by_frame(dict.fromkeys(names[:4])) == [
        "001.jpg",
        "01.jpg",
        "1.jpg",
        "\N{ARABIC-INDIC DIGIT ONE}.jpg",
    ]
    random = np.random.default_rng(0)
    for _ in range(200):
        a, b = ("".join(random.choice(list("012a/- "), 6)) for _ in range(2))
        # By Python's own lists of numbers and text, folder by folder.
        assert (natural(a) < natural(b)) == (plain(a) < plain(b)), (a, b)


def plain(name: str) -> tuple[object, str]:
    parts = []
    for folder in name.split("/"):
        text, row = "", list[tuple[int, int, str]]()
        for character in [*folder, ""]:
            if text and (not character or character.isdigit() != text[-1].isdigit()):
                row.append((0, int(text), "") if text.isdigit() else (1, 0, text))
                text = ""
            text += character
        parts.append(row)
    return parts, name


def test_time_decides_where_a_counter_began_again() -> None:
    times = {
        "DSC_0001.JPG": "05:00",
        "DSC_0002.JPG": "05:01",
        "DSC_9998.JPG": "04:58",
        "DSC_9999.JPG": "04:59",
    }
    names = ["DSC_9998.JPG", "DSC_9999.JPG", "DSC_0001.JPG", "DSC_0002.JPG"]
    assert by_frame(dict(times)) == names
    unknown = dict(times) | {"DSC_0002.JPG": None, "DSC_9999.JPG": None}
    assert by_frame(unknown) == names
    assert len(numbered(unknown)[1]) == 1
    # In the hour that is repeated as well, where it could be the clock.
    assert (
        by_frame(
            {
                name: time.replace("0", "02", 1)[:5]
                for name, time in {
                    "DSC_0001.JPG": "0:30",
                    "DSC_0002.JPG": "0:40",
                    "DSC_9998.JPG": "0:10",
                    "DSC_9999.JPG": "0:20",
                }.items()
            }
        )
        == names
    )


def test_a_counter_that_began_again_is_said_where_there_are_no_times() -> None:
    _, notes = numbered(dict.fromkeys(["DSC_9998.JPG", "DSC_9999.JPG", "DSC_0001.JPG"]))
    assert len(notes) == 1
    assert "DSC_9999.JPG" in notes[0]
    for names in (["1.jpg", "2.jpg"], ["a999.jpg", "b001.jpg"], ["0998.jpg", "0999.jpg"]):
        assert numbered(dict.fromkeys(names))[1] == []
    assert numbered({f"{number:03}.jpg": None for number in range(1, 1000)})[1] == []


@pytest.mark.parametrize(
    "times",
    [
        ["01:50", "02:10", "02:30", "02:50", "02:10", "02:30", "02:50", "03:10"],  # central Europe
        ["00:59", "01:20", "01:40", "01:00", "01:20", "01:40", "02:00"],  # Britain
        ["02:40", "02:50", "02:00", "02:10"],
    ],
)
def test_the_hour_that_clocks_repeat_is_in_the_order_of_names(times: list[str]) -> None:
    names = [f"IMG_{number}.jpg" for number in range(8, 8 + len(times))]
    images = dict(zip(names, times, strict=True))
    assert by_frame(dict(images)) == names
    assert len(numbered(dict(images))[1]) == 1


@pytest.mark.parametrize(
    "images",
    [
        {"c.jpg": "02:10", "a.jpg": "02:30", "b.jpg": "02:50"},  # names are not counted
        {"3.jpg": "02:10", "1.jpg": "02:30", "2.jpg": "02:50", "0.jpg": "02:55"},  # falls twice
        {"2.jpg": "12:10", "1.jpg": "12:30"},  # no hour that is repeated
    ],
)
def test_elsewhere_time_decides(images: dict[str, str | None]) -> None:
    assert by_frame(images) == list(images)
    assert numbered(images)[1] == []


def test_images_of_one_time_are_in_the_order_of_names() -> None:
    names = [f"{number}.jpg" for number in range(1, 13)]
    assert by_frame(dict.fromkeys(names, "02:10")) == names


def test_a_sign_in_a_folder_is_part_of_its_name() -> None:
    assert split_and_category("trap#1/bees/1.jpg") == ("trap#1", "bees")
    assert file_in("trap#1/clip.mp4#frame=3") == "trap#1/clip.mp4"
    assert file_in("trap#1/all.pt#video=3&frame=12") == "trap#1/all.pt"
    assert file_in("trap#1/all.pt#video=3") == "trap#1/all.pt"
    assert file_in("trap#1/1.jpg") == "trap#1/1.jpg"
