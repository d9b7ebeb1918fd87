"""Groups, examples, thresholds and orders of an index, against a loop over all of its rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.errors import ColumnError, FilterError
from index.build.update import add_runs, delete_rows
from index.build.version import build_index
from index.config import IndexConfig
from index.metrics import higher_is_nearer
from index.search import groups as groups_module
from index.search.columns import count_values, sort_rows
from index.search.filters import Filter
from index.search.groups import Grouping, group_by_column, group_by_members, search_groups
from index.search.snapshot import Snapshot
from tests.helpers.indexes import embeddings
from tests.helpers.runs import write_run

ROWS, MORE = 900, 300


def _run(path: Path, rows: int, prefix: str, seed: int) -> Path:
    """Rows whose images, sequences and own columns hold few values, and none in some."""
    random = np.random.default_rng(seed)

    def choose(count: int) -> list[str | None]:
        return [None if n == 0 else f"v{n}" for n in random.integers(count, size=rows).tolist()]

    plan: dict[str, Any] = {
        "image": [f"cam/{n}.jpg" for n in random.integers(rows // 4, size=rows)],
        "detection_id": [f"{prefix}{row}" for row in range(rows)],
        "sequence": [f"s{n}" for n in random.integers(40, size=rows)],
        "camera": choose(5),
        "walk": choose(200),
        "height": pa.array(
            np.where(random.random(rows) < 0.1, np.nan, random.integers(9, size=rows))
        ),
    }
    write_run(path, plan, embeddings(rows, seed=seed), root=path.parent / prefix)
    return path


@pytest.fixture(scope="module", params=["cosine", "l2"])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Two segments, whose images have the same names under two roots; some rows are deleted."""
    folder = tmp_path_factory.mktemp("groups")
    first, second = _run(folder / "one", ROWS, "a", 1), _run(folder / "two", MORE, "b", 2)
    config = IndexConfig(metric=request.param, factory="Flat")
    build_index([first], folder / "index", config)
    add_runs(folder / "index", [second])
    return delete_rows(folder / "index", Filter("row_id % 11 = 3"))[0]


def names_of(snapshot: Snapshot, column: str) -> list[Any]:
    """The group of each row by definition; None: it is alone."""
    values = snapshot.column(column).to_pylist()
    if column == "image":
        values = list(zip(snapshot.rows["run"].to_pylist(), values, strict=True))
    return [None if value != value else value for value in values]


def walk(
    snapshot: Snapshot,
    query: np.ndarray,
    names: list[Any],
    *,
    k: int,
    size: int,
    offset: int,
    threshold: float | None,
    excluded: list[int],
    where: str | None,
) -> list[int]:
    """The rows of the answer: all rows, nearest first, one after the other."""
    hits = snapshot.search(query[None], len(names), filter=Filter(where), exact=True)
    higher = higher_is_nearer(snapshot.manifest.metric)
    groups: dict[Any, list[int]] = {}
    for row, score in zip(hits.rows[0].tolist(), hits.scores[0].tolist(), strict=True):
        if threshold is not None and (score < threshold if higher else score > threshold):
            break
        if row in excluded:
            continue
        name = ("alone", row) if names[row] is None else names[row]
        members = groups.setdefault(name, [])
        if len(members) < size:
            members.append(row)
    return [row for members in list(groups.values())[offset : offset + k] for row in members]


OPTIONS: list[dict[str, Any]] = [
    {"k": 3},
    {"k": 10, "size": 3, "offset": 4},
    {"k": 7, "size": 2, "where": "score > 0.6"},
    {"k": 2000, "size": 5},
    {"k": 30, "size": 4, "threshold": 0.75},
    {"k": 5, "size": 3, "excluded": [0, 5, 17, 901], "where": "row_id < 250"},
]


@pytest.mark.parametrize("few_rows", [0, 100, 20_000])
@pytest.mark.parametrize("column", ["sequence", "image", "label", "camera", "walk", "height"])
def test_groups_are_those_of_a_walk_through_all_rows(
    snapshot: Snapshot, column: str, few_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups_module, "_FEW_ROWS", few_rows)  # how an answer is found differs
    grouping, names = group_by_column(snapshot, column), names_of(snapshot, column)
    queries = embeddings(3, seed=7)
    for options in OPTIONS:
        given: dict[str, Any] = {"size": 1, "offset": 0, "threshold": None, "excluded": []}
        given |= {"where": None} | options
        selection = search_groups(
            snapshot,
            queries,
            grouping,
            k=given["k"],
            group_size=given["size"],
            offset=given["offset"],
            score_threshold=given["threshold"],
            excluded=[np.array(given["excluded"], np.int64)] * len(queries),
            filter=Filter(given["where"]),
        )
        expected = [walk(snapshot, query, names, **given) for query in queries]
        assert selection.rows.tolist() == [row for rows in expected for row in rows]
        assert selection.counts.tolist() == [len(rows) for rows in expected]
        shown = [names[row] for row in selection.rows.tolist()]
        assert selection.groups == [n[1] if column == "image" else n for n in shown]


def test_groups_of_an_approximate_index_are_found_deeper(tmp_path: Path) -> None:
    """One group of 900 rows lies around the query, every other one behind it."""
    vectors = embeddings(1000)
    vectors[100:] = vectors[0] + 1e-3 * vectors[100:]
    plan = {
        "image": [f"{row}.jpg" for row in range(1000)],
        "detection_id": [f"d{row}" for row in range(1000)],
        "sequence": ["near" if row >= 100 or row == 0 else f"s{row}" for row in range(1000)],
    }
    run = write_run(tmp_path / "run", plan, vectors)
    for factory in ("HNSW16", "IVF8,Flat"):
        index = build_index([run.path], tmp_path / factory, IndexConfig(factory=factory, recall=1))
        grouping = group_by_column(index, "sequence")
        selection = search_groups(
            index, vectors[:1], grouping, k=20, group_size=1, excluded=[np.empty(0, np.int64)]
        )
        expected = walk(
            index,
            vectors[0],
            names_of(index, "sequence"),
            k=20,
            size=1,
            offset=0,
            threshold=None,
            excluded=[],
            where=None,
        )
        assert selection.groups[0] == "near"  # type: ignore[index]
        assert selection.rows[1:].tolist() == expected[1:]


def test_members_of_one_run_are_a_group(snapshot: Snapshot) -> None:
    first, second = (
        [name for name in (f"{run}{row}" for row in range(9)) if snapshot.rows_of([name])[0] >= 0]
        for run in "ab"
    )
    ids = [*first[:2], *second[:2], first[2], "nobody", first[3]]
    runs = np.array([0, 0, 1, 1, 0, 0, 1])  # the last one is of run 0
    names = pa.chunked_array([["t0", "t0", "t0"], ["t0", "t1", "t1", "t1"]])
    grouping = group_by_members(snapshot, ids, runs, names)
    codes = grouping.codes[snapshot.rows_of([*first[:4], *second[:2]])].tolist()
    assert codes[0] == codes[1] != codes[4] == codes[5]
    assert [grouping.value(codes[at]) for at in (0, 4, 2, 3)] == ["t0", "t0", "t1", None]
    sizes = Counter(grouping.codes.tolist()).values()
    assert sum(size for size in sizes if size > 1) == 4


def test_a_column_that_is_not_there(snapshot: Snapshot) -> None:
    for call in (
        lambda: group_by_column(snapshot, "colour"),
        lambda: sort_rows(snapshot, "colour", "asc"),
        lambda: count_values(snapshot, "colour", None, 5),
    ):
        with pytest.raises(ColumnError):
            call()
    with pytest.raises(FilterError):
        count_values(snapshot, "label", Filter("colour = 1"), 5)


@pytest.mark.parametrize(
    "column", ["label", "camera", "payload.camera", "height", "row_id", "image"]
)
@pytest.mark.parametrize("where", [None, "score > 0.6", "row_id < 0"])
def test_values_are_counted(snapshot: Snapshot, column: str, where: str | None) -> None:
    rows = snapshot.matching(Filter(where))
    plain = column.removeprefix("payload.")
    values = [snapshot.column(plain)[row].as_py() for row in rows.tolist()]
    counts = Counter(value for value in values if value is not None and value == value)
    expected = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    total, pairs = count_values(snapshot, column, Filter(where), 1_000_000)
    assert (total, pairs) == (len(expected), expected)
    assert count_values(snapshot, column, Filter(where), 2) == (len(expected), expected[:2])


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("column", ["label", "camera", "height", "detection_id", "score"])
def test_rows_in_the_order_of_a_column(snapshot: Snapshot, column: str, direction: Any) -> None:
    values = snapshot.column(column).to_pylist()
    given = [row for row, value in enumerate(values) if value is not None and value == value]
    without = [row for row in range(len(values)) if row not in set(given)]
    # Python keeps equal values in order in both directions, as it is promised here.
    ordered = sorted(given, key=lambda row: values[row], reverse=direction == "desc")
    assert sort_rows(snapshot, column, direction).tolist() == ordered + without


def test_rows_without_a_value_are_alone() -> None:
    grouping = Grouping.of_codes(np.array([0, -1, 1, -1, 0]), pa.array(["x", "y"]))
    assert grouping.codes.tolist() == [0, 2, 1, 3, 0]
    assert [grouping.value(code) for code in range(4)] == ["x", "y", None, None]
    assert grouping.count == 4
