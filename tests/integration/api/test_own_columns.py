"""Own columns over HTTP: shown, chosen, filtered on, counted, grouped and ordered by."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from api.client import Client
from index.build.version import build_index
from tests.helpers.api.world import error_of, raised_error, serving
from tests.helpers.runs import write_run

ROWS = 36
IDS = [f"d{row}" for row in range(ROWS)]
CAMERAS = [("north", "south", None)[row % 3] for row in range(ROWS)]
HEIGHTS = [None if row % 7 == 0 else row % 5 / 2 for row in range(ROWS)]
DAYS = [datetime.date(2024, 5, 1 + row % 4) for row in range(ROWS)]
WALKS = [row % 6 for row in range(ROWS)]
VECTORS = np.random.default_rng(8).normal(size=(ROWS, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    base = tmp_path_factory.mktemp("own")
    plan: dict[str, list[Any]] = {
        "image": [f"cam/{row}.jpg" for row in range(ROWS)],
        "detection_id": IDS,
        "camera": CAMERAS,
        "height": HEIGHTS,
        "day": DAYS,
        "run": WALKS,  # a name that the index uses itself
    }
    build_index([write_run(base / "run", plan, VECTORS).path], base / "index")
    with serving(base / "index") as http:
        yield http


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> Iterator[Client]:
    with Client(str(http.base_url)) as client:
        yield client


def payload_of(row: int) -> dict[str, Any]:
    return {
        "camera": CAMERAS[row],
        "height": HEIGHTS[row],
        "day": DAYS[row].isoformat(),
        "run": WALKS[row],
    }


def test_every_answer_has_them(client: Client) -> None:
    batch = client.search_batch(["d0", "d1"], 5).results
    for detections in (
        client.search("d0", 20).hits,
        client.neighbors("d0", 20).hits,
        client.recommend(["d0", "d3"], ["d9"], 20).hits,
        batch[1].hits,
        client.detections(limit=ROWS).detections,
        client.fetch(IDS).detections,
        [client.detection("d7")],
    ):
        assert detections
        for detection in detections:
            assert detection.payload == payload_of(int(detection.detection_id[1:]))


def test_some_or_none_of_them(client: Client, http: httpx.Client) -> None:
    for hits in (
        client.search("d0", 5, with_payload=["run", "camera"]).hits,
        client.neighbors("d0", 5, with_payload=["run", "camera"]).hits,
    ):
        for hit in hits:
            whole = payload_of(int(hit.detection_id[1:]))
            assert hit.payload == {"run": whole["run"], "camera": whole["camera"]}
    assert client.fetch(["d2"], with_payload=["day"]).detections[0].payload == {"day": "2024-05-03"}
    assert client.detections(with_payload=[]).detections[0].payload == {}
    assert client.detections(with_payload=False).detections[0].payload is None
    assert http.get("/v1/detections/d2?with_payload=false").json()["payload"] is None
    for name in ("label", "colour", "payload.run"):
        error = raised_error(client.search, "d0", with_payload=[name])
        assert (error.status, error.code) == (422, "invalid_column")


def test_searches_that_share_a_call_keep_their_own(client: Client) -> None:
    plain = client.search_batch(["d0"], 3, with_payload=False).results[0].hits
    assert [hit.payload for hit in plain] == [None] * 3


@pytest.mark.parametrize(
    ("column", "values"),
    [("camera", CAMERAS), ("height", HEIGHTS), ("day", DAYS), ("payload.run", WALKS)],
)
def test_facets_groups_and_orders(client: Client, column: str, values: list[Any]) -> None:
    where = "score > 0.6"
    allowed = {d.detection_id for d in client.detections(where, limit=ROWS).detections}
    assert 0 < len(allowed) < ROWS

    def shown(value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime.date) else value

    for condition, names in ((None, set(IDS)), (where, allowed)):
        kept = [shown(v) for name, v in zip(IDS, values, strict=True) if name in names]
        counts = Counter(value for value in kept if value is not None)
        facets = client.facets(column, condition)
        actual = [(facet.value, facet.rows) for facet in facets.values]
        assert actual == sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        assert facets.total == len(counts)
        assert len(client.facets(column, condition, limit=1).values) == 1

    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    nearest = [row for row in np.argsort(-unit @ unit[0], kind="stable").tolist() if row != 0]
    groups: dict[Any, int] = {}
    for row in nearest:
        groups.setdefault(("alone", row) if values[row] is None else values[row], row)
    hits = client.search("d0", 4, group_by=column).hits
    assert [hit.detection_id for hit in hits] == [f"d{row}" for row in list(groups.values())[:4]]
    assert [hit.group for hit in hits] == [shown(values[int(h.detection_id[1:])]) for h in hits]

    indexed = [d.detection_id for d in client.detections(limit=ROWS).detections]
    rows = [int(name[1:]) for name in indexed]
    for direction in ("asc", "desc"):
        named = [row for row in rows if values[row] is not None]
        named.sort(key=lambda row: values[row], reverse=direction == "desc")
        expected = [f"d{row}" for row in (*named, *(r for r in rows if values[r] is None))]
        pages = [
            client.detections(order_by=column, direction=direction, limit=10, offset=offset)  # type: ignore[arg-type]
            for offset in range(0, ROWS, 10)
        ]
        assert [d.detection_id for page in pages for d in page.detections] == expected


def test_wrong_columns_are_refused(http: httpx.Client) -> None:
    for url in (
        "/v1/detections?order_by=colour",
        "/v1/index/facets?column=colour",
        "/v1/index/facets?column=payload.camera.x",
    ):
        assert error_of(http.get(url), 422)[0] == "invalid_column"
    assert error_of(http.get("/v1/detections?direction=up"), 422)[0] == "invalid_request"
    assert error_of(http.get("/v1/index/facets?column=label&where=x"), 422)[0] == "invalid_filter"


def test_the_index_names_its_columns(client: Client, tmp_path: Path) -> None:
    served = client.index()
    assert served.own_columns == ["camera", "height", "day", "payload.run"]
    assert served.columns["day"] == "date32[day]"
    assert list(served.columns)[:3] == ["run", "row_id", "detection_id"]
