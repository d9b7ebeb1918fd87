"""Contract 1: what is filled in, and what is refused."""

from __future__ import annotations

import hashlib
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from common.errors import SourceError
from pipelines.detections import PLAN_SCHEMA, complete, make_detection_id, timestamp_in_name


def test_only_image_is_required() -> None:
    table = complete(pa.table({"image": ["n1/b.jpg", "n1/a.jpg", "n2/c.jpg"]}), where="t")
    assert table.schema == PLAN_SCHEMA
    assert table["row_id"].to_pylist() == [0, 1, 2]
    assert table["sequence"].to_pylist() == ["n1", "n1", "n2"]
    assert table["frame"].to_pylist() == [1, 0, 0]  # by name within the sequence
    assert table["detection_id"].to_pylist()[1] == make_detection_id("n1/a.jpg", None)


def test_rows_of_one_image_become_adjacent_and_keep_their_order() -> None:
    table = complete(
        pa.table({"image": ["a", "b", "a", "c", "b"], "n": [0, 1, 2, 3, 4]}), where="t"
    )
    assert table["image"].to_pylist() == ["a", "a", "b", "b", "c"]
    assert table["n"].to_pylist() == [0, 2, 1, 4, 3]


def test_ids_are_stable_and_exact_repeats_are_told_apart() -> None:
    given = {"image": ["a.jpg"] * 3, "x1": [1, 1, 2], "y1": [1] * 3, "x2": [9] * 3, "y2": [9] * 3}
    first, again, other = complete(pa.table(given), where="t")["detection_id"].to_pylist()
    assert first == make_detection_id("a.jpg", (1, 1, 9, 9))
    assert again == f"{first}-2"
    assert other not in (first, again)


def test_ids_of_boxes_are_those_of_the_first_release() -> None:
    """Runs and indexes name rows by them, whatever makes them faster."""
    given = {
        "image": ["a.jpg"] * 5,
        "x1": [0.1, -0.0, None, None, 123456.789],
        "y1": [2.0005, float("nan"), None, 1.0, 1e9],
        "x2": [10.0, 4.0, None, 5.0, 2e-4],
        "y2": [20.25, 5.0, None, 6.0, 33.3333],
    }
    ids = complete(pa.table(given), where="t")["detection_id"].to_pylist()
    boxes = zip(*(given[name] for name in ("x1", "y1", "x2", "y2")), strict=True)
    texts = [
        ",".join(f"{float('nan') if v is None else np.float32(v):.3f}" for v in box)
        for box in boxes
    ]
    texts[2] = ""
    assert ids == [
        hashlib.blake2b(f"a.jpg|{text}".encode(), digest_size=16).hexdigest() for text in texts
    ]
    assert ids[0] == "df0c8b232770791afafcbb5ff8832cf3"


def test_time_comes_from_the_name_and_orders_frames() -> None:
    names = ["cam/20220728232445-00-71.jpg", "cam/20220728232239-00-69.jpg"]
    table = complete(pa.table({"image": names}), where="t")
    assert table["timestamp"].to_pylist()[1] == datetime(2022, 7, 28, 23, 22, 39)
    assert table["frame"].to_pylist() == [1, 0]
    assert timestamp_in_name("IMG_20221399000000.jpg") is None
    assert timestamp_in_name("12345678901234567.jpg") is None


def test_frames_of_a_clip_keep_their_numbers() -> None:
    """In the order of text frame 10 would come before frame 2, and every sample would be 1 apart."""
    names = ["a.mp4#frame=10", "a.mp4#frame=2", "a.mp4#frame=2", "a.mp4#frame=100"]
    table = complete(pa.table({"image": names, "x1": [1, 2, 3, 4]}), where="t")
    frames = zip(table["image"].to_pylist(), table["frame"].to_pylist(), strict=True)
    assert list(frames) == [(names[0], 10), (names[1], 2), (names[1], 2), (names[3], 100)]
    stored = complete(
        pa.table({"image": ["a.pt#video=1&frame=9", "a.pt#video=1&frame=30"]}), where="t"
    )
    assert stored["frame"].to_pylist() == [9, 30]


def test_frames_of_two_clips_in_one_sequence_are_numbered_by_clip_and_number() -> None:
    names = ["b.mp4#frame=0", "a.mp4#frame=10", "a.mp4#frame=9", "c.jpg", "cam/x.mp4#frame=7"]
    table = complete(pa.table({"image": names}), where="t")
    assert table["frame"].to_pylist() == [2, 1, 0, 3, 7]


def test_sequences_never_show_where_the_disk_is() -> None:
    names = ["/srv/data/cam1/a.jpg", "/srv/data/cam2/night/b.jpg", "c.jpg"]
    table = complete(pa.table({"image": names}), where="t", folder="photos")
    assert table["sequence"].to_pylist() == ["data/cam1", "data/cam2/night", "photos"]
    alone = complete(pa.table({"image": names[:1]}), where="t")
    assert alone["sequence"].to_pylist() == ["cam1"]


def test_given_columns_win_and_unknown_ones_pass() -> None:
    table = complete(
        pa.table(
            {
                "image": ["a.jpg", "b.jpg"],
                "sequence": ["s", None],
                "frame": pa.array([7, 8], pa.int16()),
                "timestamp": ["2022-07-28T23:22:39", "2022-07-28T23:22:40"],
                "detection_id": ["x", "y"],
                "night": [1, 2],
            }
        ),
        where="t",
    )
    assert table["sequence"].to_pylist() == ["s", "."]
    assert table["frame"].to_pylist() == [7, 8]
    assert table["timestamp"].to_pylist()[0] == datetime(2022, 7, 28, 23, 22, 39)
    assert table["detection_id"].to_pylist() == ["x", "y"]
    assert table["night"].to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.jpg"]}, "no column 'image'"),
        ({"image": ["a"], "embedding": [1]}, "writes itself"),
        ({"image": pa.array([], pa.string())}, "no rows"),
        ({"image": ["a", None]}, "1 rows have no image path"),
        ({"image": ["a", "b"], "detection_id": ["x", "x"]}, "'x' occurs 2 times"),
        ({"image": ["a", "b"], "detection_id": ["x", None]}, "no detection_id"),
        ({"image": ["a"], "x1": ["wide"]}, "column 'x1' is string"),
        ({"image": ["a"], "timestamp": ["yesterday"]}, "column 'timestamp'"),
    ],
)
def test_what_cannot_be_planned_is_one_line(columns: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        complete(pa.table(columns), where="rows.csv")
    assert "rows.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
