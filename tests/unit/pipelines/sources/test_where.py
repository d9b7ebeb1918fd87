"""The rows of a source that match a condition: pandas is the reference, and frames stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from common.errors import FilterError, InputError, SourceError
from pipelines.sources.contents import with_hashes
from pipelines.sources.read import read_source
from tests.helpers.ami import NIGHT, change, fill
from tests.helpers.pictures import photo_folder

Fits = Callable[[pd.DataFrame], Any]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two cameras with five frames of two boxes each; some are no moths."""
    folder = tmp_path_factory.mktemp("ami")
    url = f"sqlite:///{folder / 'ami.db'}"
    fill(url, folder / "traps", empty=())
    change(
        url,
        "UPDATE detections SET binary_label = 'nonmoth' WHERE id % 3 = 0",
        "UPDATE detections SET binary_label = NULL WHERE id = 4",
        "UPDATE monitoring_sessions SET day = '2022-06-22' WHERE id = 2",
    )
    return url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), 8, width=32, height=32)


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Path:
    rows = ["image,x1,y1,x2,y2,camera,detector_score,timestamp"]
    for number, photo in enumerate(sorted(folder.rglob("*.jpg"))):
        for box in range(2):
            rows.append(
                f"{photo.relative_to(folder)},{box},0,{box + 20},20,{'ns'[number % 2]},"
                f"{number / 10},2024-05-01T22:0{number}:00"
            )
    file = folder / "boxes.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def assert_rows(source: str, where: str, fits: Fits) -> None:
    """The rows that pandas finds, with the values that they have in the whole plan."""
    whole, some = read_source(source), read_source(source, where=where)
    assert some.table.column_names == whole.table.column_names
    expected = whole.table.to_pandas()
    expected = expected[fits(expected).astype(bool)].reset_index(drop=True)
    assert 0 < len(expected) < whole.table.num_rows
    expected["row_id"] = range(len(expected))
    pd.testing.assert_frame_equal(some.table.to_pandas(), expected)


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ("binary_label = 'moth'", lambda t: t.binary_label == "moth"),
        ("binary_label IS NULL", lambda t: t.binary_label.isna()),
        ("deployment = 'north'", lambda t: t.sequence.str.startswith("north/")),
        ("night = '2022-06-22'", lambda t: t.sequence.str.startswith("south/20220622")),
        ("night > '2022-06-21'", lambda t: t.sequence.str.startswith("south/")),
        ("timestamp >= '2022-06-21 22:03'", lambda t: t.timestamp >= NIGHT.replace(minute=3)),
        (
            "deployment LIKE 'no%' AND binary_label <> 'nonmoth'",
            lambda t: t.sequence.str.startswith("north") & (t.binary_label == "moth"),
        ),
        ("frame = 2 AND x1 < 20", lambda t: (t.frame == 2) & (t.x1 < 20)),
        ("detection_id = 'ami:7' OR database_id = 8", lambda t: t.database_id.isin([7, 8])),
    ],
)
def test_databases(database: str, where: str, fits: Fits) -> None:
    assert_rows(database, where, fits)


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ("camera = 'n'", lambda t: t.camera == "n"),
        (
            "Camera = 'n' AND DETECTOR_SCORE > 0.35",
            lambda t: (t.camera == "n") & (t.detector_score > 0.35),
        ),
        ("hour(timestamp) = 22 AND minute(timestamp) < 3", lambda t: t.timestamp.dt.minute < 3),
        ("sequence = 'night1'", lambda t: t.sequence == "night1"),
        ("(x2 - x1) * (y2 - y1) > 0 AND x1 = 1", lambda t: t.x1 == 1),
    ],
)
def test_manifests(manifest: Path, where: str, fits: Fits) -> None:
    assert_rows(str(manifest), where, fits)


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ("sequence = 'night0'", lambda t: t.sequence == "night0"),
        ("image LIKE '%0003.jpg'", lambda t: t.image.str.endswith("0003.jpg")),
        ("frame % 2 = 1", lambda t: t.frame % 2 == 1),
    ],
)
def test_folders(folder: Path, where: str, fits: Fits) -> None:
    assert_rows(str(folder), where, fits)


def test_a_frame_that_is_left_out_counts(database: str) -> None:
    plan = read_source(database, where="binary_label = 'nonmoth' AND deployment = 'north'")
    assert plan.table["frame"].to_pylist() == [4, 2, 1]  # image ids run against time
    assert set(plan.table["detection_id"].to_pylist()) == {"ami:3", "ami:6", "ami:9"}


def test_a_limit_is_of_the_rows_that_match(database: str, folder: Path) -> None:
    plan = read_source(database, where="deployment = 'south'", limit=3)
    assert len(set(plan.table["image"].to_pylist())) == 3
    assert {name.split("/")[0] for name in plan.table["sequence"].to_pylist()} == {"south"}
    plan = read_source(str(folder), where="sequence = 'night1'", limit=2, id_prefix="a:")
    assert plan.table["sequence"].to_pylist() == ["night1", "night1"]
    assert plan.table["row_id"].to_pylist() == [0, 1]


def test_videos(tmp_path: Path) -> None:
    for name in ("train/bee/a", "train/bee/b", "test/bee/c"):
        photo_folder(tmp_path / name, 4, width=32, height=32)
    options: dict[str, Any] = {"kind": "video", "frames": 2}
    whole = read_source(str(tmp_path), **options).table
    some = read_source(str(tmp_path), where="split = 'test'", limit=1, **options).table
    assert some.num_rows == 2
    assert set(some["split"].to_pylist()) == {"test"}
    assert set(some["image"].to_pylist()) <= set(whole["image"].to_pylist())
    some = read_source(str(tmp_path), where="split = 'train'", limit=3, **options).table
    assert len(set(some["sequence"].to_pylist())) == 3


def test_ids_are_those_of_the_whole_source(folder: Path) -> None:
    def ids(where: str | None) -> dict[str, str]:
        table = with_hashes(read_source(str(folder), where=where)).table
        columns = (table["image"].to_pylist(), table["detection_id"].to_pylist())
        return dict(zip(*columns, strict=True))

    some = ids("sequence = 'night1'")
    assert len(some) == 4
    assert some.items() <= ids(None).items()


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("colour = 'red'", "binary_label"),
        ("payload.camera = 'n'", "binary_label"),
        ("binary_label = ", "syntax"),
        ("specific_label", "true or false"),
        ("read_text('/etc/passwd') = ''", "read_text"),
        ("id IN (SELECT 1)", "subquery"),
        ("row_id = 1", "row_id"),
        ("binary_label = 1", "cannot be used"),
        ("", "empty"),
    ],
)
def test_what_is_no_condition_is_refused(database: str, where: str, named: str) -> None:
    with pytest.raises(FilterError, match=named) as caught:
        read_source(database, where=where)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)


def test_no_row_matches(database: str, folder: Path) -> None:
    with pytest.raises(SourceError, match="none of the 20 rows"):
        read_source(database, where="binary_label = 'bee'")
    with pytest.raises(SourceError, match="'timestamp' is empty"):
        read_source(str(folder), where=f"timestamp > '{date(2020, 1, 1)}'")


def test_ids_of_a_folder_are_made_later(folder: Path) -> None:
    with pytest.raises(FilterError, match="detection_id"):
        read_source(str(folder), where="detection_id = 'x'")
