"""``onepass query`` prints what the Python API answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onepass
from index.build.version import build_index
from tests.helpers.commands import here
from tests.helpers.indexes import embeddings
from tests.helpers.runs import write_run

ROWS = 40


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query")
    plan: dict[str, list[Any]] = {
        "image": [f"night{row % 3}/{row}.jpg" for row in range(ROWS)],
        "detection_id": [f"d{row}" for row in range(ROWS)],
        "camera": [("north", "south", None)[row % 3] for row in range(ROWS)],
        "height": [row % 7 / 2 for row in range(ROWS)],
    }
    build_index([write_run(folder / "run", plan, embeddings(ROWS)).path], folder / "index")
    np.save(folder / "query.npy", embeddings(1, seed=5)[0])
    return folder / "index"


def document(index: Path, *options: object) -> Any:
    ended = here("query", index, *options, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_options_of_a_search(index: Path) -> None:
    opened = onepass.open_index(index)
    vector = np.load(index.parent / "query.npy")
    by_vector = ("--vector", index.parent / "query.npy")
    cases: list[tuple[tuple[object, ...], onepass.Hits]] = [
        (("--offset", 7, "-k", 5), opened.search(vector, 5, offset=7)),
        (("--score-threshold", 0.1), opened.search(vector, score_threshold=0.1)),
        (
            ("--group-by", "camera", "--group-size", 2, "-k", 3),
            opened.search(vector, 3, group_by="camera", group_size=2),
        ),
    ]
    for options, hits in cases:
        assert document(index, *by_vector, *options)["hits"] == hits.to_dicts()
        assert len(hits) > 1
    examples = ("--positive", "d1", "--positive", "d2", "--negative", "d9", "-k", 4)
    expected = opened.recommend(["d1", "d2"], ["d9"], 4).to_dicts()
    assert document(index, *examples)["hits"] == expected
    shown = here("query", index, "--id", "d1", "-k", 2, "--group-by", "camera").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["1", "2"]


def test_rows_in_an_order_and_values_counted(index: Path) -> None:
    opened = onepass.open_index(index)
    listed = document(index, "--order-by", "height", "--descending", "-k", 6, "--offset", 2)
    table = opened.detections(order_by="height", direction="desc", limit=6, offset=2)
    assert [row["detection_id"] for row in listed["detections"]] == table["detection_id"].tolist()
    assert [row["height"] for row in listed["detections"]] == table["height"].tolist()
    shown = here("query", index, "--order-by", "height", "-k", 3).stdout.splitlines()
    assert [line.split()[-1] for line in shown] == ["0.0"] * 3
    counted = document(index, "--facets", "camera", "--where", "height > 1")
    expected = opened.facets("camera", "height > 1")
    assert {each["value"]: each["rows"] for each in counted["values"]} == expected
    assert here("query", index, "--facets", "camera", "-k", 1).stdout.split() == ["14", "north"]
