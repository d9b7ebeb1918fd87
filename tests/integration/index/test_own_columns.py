"""The user's own columns: kept by a build, an addition and a compaction, filtered on, given back."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from common.errors import FilterError, SnapshotError
from index.build.update import add_runs, compact, delete_rows
from index.build.version import build_index
from index.search.columns import count_values
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import current_version
from onepass.search import Index
from tests.helpers.indexes import embeddings, order_of, tree
from tests.helpers.runs import write_run

ROWS = 40
NIGHT = datetime.datetime(2024, 5, 1, 22)


def plan(**more: Any) -> dict[str, Any]:
    """A plan with own columns of many types and difficult names."""
    rows = range(ROWS)
    return {
        "image": [f"cam/{row}.jpg" for row in rows],
        "detection_id": [f"d{row}" for row in rows],
        "camera": [("north", "south", None)[row % 3] for row in rows],
        "temperature": [None if row % 7 == 0 else row / 4 for row in rows],
        "height": [row * 10 for row in rows],
        "Wet": [None if row % 5 == 0 else row % 2 == 0 for row in rows],
        "day": [(NIGHT + datetime.timedelta(days=row)).date() for row in rows],
        "time of day": [datetime.time(row % 24, row) for row in rows],
        "seen": pa.array(
            [NIGHT + datetime.timedelta(hours=row) for row in rows],
            pa.timestamp("us", "Europe/Berlin"),
        ),
        'a "quoted" name': pa.array([f"q{row % 4}" for row in rows]).dictionary_encode(),
        "run": [f"walk {row % 2}" for row in rows],
        "ORDER": list(rows),
        "tags": [["a", "b"]] * ROWS,
        "where": [{"x": 1}] * ROWS,
        "nothing": pa.nulls(ROWS),
        **more,
    }


OWN = [
    *("camera", "temperature", "height", "Wet", "day", "time of day", "seen"),
    *('a "quoted" name', "payload.run", "ORDER"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("own") / "run", plan(), embeddings(ROWS)).path


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Snapshot:
    return build_index([run], tmp_path_factory.mktemp("own") / "index")


def frame() -> pd.DataFrame:
    table = pa.table({k: v for k, v in plan().items() if k not in ("tags", "where", "nothing")})
    return table.to_pandas().set_index("detection_id", drop=False)


def ids(snapshot: Snapshot, where: str) -> set[str]:
    rows = snapshot.matching(Filter(where))
    return set(snapshot.columns(rows, ["detection_id"])["detection_id"]) if len(rows) else set()


def test_every_simple_column_is_kept_and_the_others_are_named(index: Snapshot) -> None:
    assert index.own_columns == OWN
    note = " ".join(index.manifest.notes)
    assert "'tags' (list<" in note
    assert "'where' (struct<" in note
    assert "nothing" not in note
    assert "topk" not in note
    assert json.loads((index.path / "manifest.json").read_text())["format"] == 3
    assert index.rows.schema.names == Snapshot.open(index.path.parent).rows.schema.names


Expected = Callable[[pd.DataFrame], Any]
CONDITIONS: dict[str, Expected] = {
    "camera = 'north'": lambda t: t.camera == "north",
    "Camera = 'north'": lambda t: t.camera == "north",
    "payload.camera = 'north'": lambda t: t.camera == "north",
    "camera IS NULL": lambda t: t.camera.isna(),
    "temperature > 3.5 AND height < 250": lambda t: (t.temperature > 3.5) & (t.height < 250),
    "wet": lambda t: t.Wet == True,  # noqa: E712
    "NOT Wet": lambda t: t.Wet == False,  # noqa: E712
    "day >= '2024-05-20'": lambda t: t.day >= datetime.date(2024, 5, 20),
    "\"time of day\" < '03:00'": lambda t: t["time of day"] < datetime.time(3),
    "seen < '2024-05-02 12:00'": lambda t: (
        t.seen.dt.tz_convert("UTC").dt.tz_localize(None) < "2024-05-02 12:00"
    ),
    '"a ""quoted"" name" = \'q3\'': lambda t: t['a "quoted" name'] == "q3",
    "payload.run = 'walk 1' AND run = 0": lambda t: t.run == "walk 1",
    "\"payload.run\" = 'walk 1'": lambda t: t.run == "walk 1",
    '"ORDER" % 3 = 0 OR payload."order" = 1': lambda t: (t.ORDER % 3 == 0) | (t.ORDER == 1),
    "run = 0": lambda t: t.height >= 0,
    "score > 0.6 AND camera = 'south'": lambda t: (t.ORDER % 2 == 1) & (t.camera == "south"),
}


@pytest.mark.parametrize("where", list(CONDITIONS))
def test_filters_choose_the_rows_that_pandas_does(index: Snapshot, where: str) -> None:
    table = frame()
    expected = set(table.index[CONDITIONS[where](table).fillna(False).to_numpy(bool)])
    assert ids(index, where) == expected
    hits = index.search(embeddings(3, seed=7), ROWS, filter=Filter(where))
    assert set(index.columns(hits.rows[0], ["detection_id"])["detection_id"]) == expected


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("tags IS NULL", "there is no column 'tags'"),
        ("payload.score > 1", "there is no column 'payload.score'"),
        ("payload.detection_id = 'd1'", "there is no column"),
        ("other.camera = 'north'", "there is no column 'other.camera'"),
        ("rows.payload.camera = 'north'", "there is no column"),
        ("species = 'moth'", '"time of day", seen, "a ""quoted"" name", payload.run, ORDER'),
        ("height > 'tall'", "Could not convert"),
    ],
)
def test_columns_that_are_not_there_are_refused(index: Snapshot, where: str, says: str) -> None:
    with pytest.raises(FilterError) as caught:
        index.matching(Filter(where))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_are_given_back_as_they_were(index: Snapshot) -> None:
    table = frame()
    rows = index.rows_of(["d3", "d35", "d0"])
    values = index.columns(rows)
    assert values["temperature"] == [0.75, None, None]
    assert values["Wet"] == [False, None, None]
    assert values["time of day"] == [table["time of day"][each] for each in ("d3", "d35", "d0")]
    assert values["payload.run"] == ["walk 1", "walk 1", "walk 0"]
    cameras = plan()["camera"]
    assert index.column("camera").to_pylist() == [cameras[row] for row in order_of(index)]


def test_hits_have_a_payload_and_columns(index: Snapshot) -> None:
    opened = Index(index)
    hits = opened.search(embeddings(ROWS)[5], k=3)
    first = hits.to_dicts()[0]
    assert first["detection_id"] == "d5"
    assert first["payload"] == {
        "camera": None,
        "temperature": 1.25,
        "height": 50,
        "Wet": None,
        "day": "2024-05-06",
        "time of day": "05:05:00",
        "seen": "2024-05-02T03:00:00",
        'a "quoted" name': "q1",
        "run": "walk 1",
        "ORDER": 5,
    }
    json.dumps(hits.to_dicts(), allow_nan=False)
    table = hits.to_pandas()
    assert list(table.columns[-len(OWN) :]) == OWN
    assert table["seen"].dtype == "datetime64[us]"
    none = opened.search(embeddings(1)[0], k=3, where="height < 0").to_pandas()
    assert list(none.columns) == list(table.columns)
    assert none["seen"].dtype == "datetime64[us]"


def test_own_columns_named_as_those_of_a_hit(tmp_path: Path) -> None:
    own = {"image": ["a", "b"], "rank": [7, 8], "query": ["x", "y"], "payload": ["p", "q"]}
    run = write_run(tmp_path / "run", own, embeddings(2))
    index = Index(build_index([run.path], tmp_path / "index"))
    hits = index.search(embeddings(2), k=1)
    assert [hit["payload"]["rank"] for hit in hits.to_dicts()] == [7, 8]
    assert hits.to_pandas()["payload.rank"].tolist() == [7, 8]
    assert hits.to_pandas()["payload.query"].tolist() == ["x", "y"]
    assert ids(index.snapshot, "rank = 8 AND payload.payload = 'q'") == {hits.ids[1, 0]}


def test_names_that_differ_only_in_case(tmp_path: Path) -> None:
    own = {"image": ["a", "b"], "detection_id": ["1", "2"], "Site": ["x", "y"], "site": ["p", "q"]}
    run = write_run(tmp_path / "run", own, embeddings(2))
    index = build_index([run.path], tmp_path / "index")
    assert index.columns(np.array([index.row_of("2")]), ["Site", "site"]) == {
        "Site": ["y"],
        "site": ["q"],
    }
    assert (ids(index, "Site = 'x'"), ids(index, "payload.site = 'q'")) == ({"1"}, {"2"})
    for where in ("SITE = 'x'", "Site = 'x' AND site = 'p'", "payload.Site = payload.site"):
        with pytest.raises(FilterError, match="Site and site differ only"):
            index.matching(Filter(where))


def other(tmp_path: Path, name: str, **columns: Any) -> Path:
    rows = len(next(iter(columns.values())))
    named = {"image": [f"{name}/{row}.jpg" for row in range(rows)]}
    named["detection_id"] = [f"{name}{row}" for row in range(rows)]
    return write_run(tmp_path / name, {**named, **columns}, embeddings(rows, seed=3)).path


def test_segments_with_other_columns_and_types(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    second = other(tmp_path, "e", height=[0.5, 100.25, None], site=["x", "y", None])
    snapshot = add_runs(out, [second])
    assert snapshot.manifest.payload_schema["height"] == "double"
    assert snapshot.own_columns == [*OWN, "site"]
    rows = snapshot.rows_of(["d3", "e1", "e2"])
    values = snapshot.columns(rows, ["height", "site", "camera"])
    assert values == {
        "height": [30.0, 100.25, None],
        "site": [None, "y", None],
        "camera": ["north", None, None],
    }
    assert ids(snapshot, "height BETWEEN 90 AND 101") == {"d9", "d10", "e1"}
    assert ids(snapshot, "height / 7 > 55") == {"d39"}
    assert ids(snapshot, "site = 'y' OR payload.run = 'walk 1' AND height < 20") == {"d1", "e1"}
    assert ids(snapshot, "site IS NULL AND height IS NULL") == {"e2"}
    assert snapshot.column("site").to_pylist().count(None) == ROWS + 1
    assert count_values(snapshot, "site", None, 9)[1] == [("x", 1), ("y", 1)]
    before = tree(out)
    compacted = compact(out)
    assert compacted.manifest.payload_schema == snapshot.manifest.payload_schema
    again = compacted.columns(compacted.rows_of(["d3", "e1", "e2"]), ["height", "site", "camera"])
    assert again == values
    assert len(tree(out)) > len(before)


def test_two_runs_of_one_build(tmp_path: Path, run: Path) -> None:
    second = other(tmp_path, "e", height=[0.5, None], site=["x", None])
    snapshot = build_index([run, second], tmp_path / "index")
    rows = snapshot.rows_of(["d3", "e0", "e1"])
    assert snapshot.columns(rows, ["height", "site"]) == {
        "height": [30.0, 0.5, None],
        "site": [None, "x", None],
    }


def test_types_that_do_not_go_together_are_refused_before_anything_is_written(
    tmp_path: Path, run: Path
) -> None:
    out = tmp_path / "index"
    second = other(tmp_path, "e", height=["tall", "small"])
    with pytest.raises(SnapshotError, match=r"'height' is string in .*/e and int64 in .*/run"):
        build_index([run, second], out)
    assert not [name for name in tree(out) if not name.startswith(".")]
    build_index([run], out)
    with pytest.raises(
        SnapshotError, match=r"'height' is string in .*/e and int64 in version v0001"
    ):
        add_runs(out, [second])
    assert current_version(out) == "v0001"
    assert not [name for name in tree(out) if "building" in name or "s0002" in name]


def test_an_index_without_own_columns_can_get_some(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([other(tmp_path, "e", frame=[1, 2])], out)
    # As version 2 of the format has it: none of the fields that were added since.
    file = out / "v0001" / "manifest.json"
    manifest = json.loads(file.read_text())
    for name in ("payload_schema", "notes", "skipped_reasons"):
        del manifest[name]
    del manifest["sha256"]  # as it was then
    file.write_text(json.dumps(manifest | {"format": 2}))
    (out / "CURRENT").write_text("v0001\n")
    old = Snapshot.open(out)
    assert (old.own_columns, old.column("frame").to_pylist().count(1)) == ([], 1)
    assert old.describe(old.neighbors("e0", 1))[0]["payload"] == {}
    snapshot = add_runs(out, [run])
    assert snapshot.own_columns == OWN
    assert ids(snapshot, "camera IS NULL AND run = 0") == {"e0", "e1"}
    deleted, count = delete_rows(out, Filter("camera = 'north'"))
    assert count == 14
    assert deleted.own_columns == OWN
    assert count_values(deleted, "camera", None, 9)[1] == [("south", 13)]
