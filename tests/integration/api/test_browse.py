"""Browsing over HTTP: pages, facets, the track of a detection, the page's files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from index.build.version import build_index
from tests.helpers.api.world import detection_url, error_of, serving
from tests.helpers.runs import write_run
from tests.helpers.scenes import crowd
from tracks.association.options import TERMS
from tracks.link import link_run
from tracks.store import read_tracks

ROWS = 30
LABELS = [("it's", "moth", "fly")[min(row % 5, 2)] for row in range(ROWS)]
IDS = [f"cam/{row}?" for row in range(ROWS)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    base = tmp_path_factory.mktemp("browse")
    vectors = np.random.default_rng(5).normal(size=(ROWS, 8)).astype(np.float32)
    runs = []
    for name, rows, linked in (("first", range(20), True), ("second", range(20, ROWS), False)):
        run = write_run(
            base / name,
            {
                "image": [f"{row}.jpg" for row in rows],
                "detection_id": [IDS[row] for row in rows],
                "sequence": [f"s{row % 4}" for row in rows],
                "frame": list(rows),
            },
            vectors[list(rows)],
            labels=[LABELS[row] for row in rows],
        )
        if linked:
            link_run(run.path)
        runs.append(run.path)
    build_index(runs, base / "index")
    with serving(base / "index") as client:
        yield client


def page(client: httpx.Client, **params: str | int) -> dict[str, object]:
    response = client.get("/v1/detections", params=params)
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer: dict[str, object]) -> list[str]:
    return [row["detection_id"] for row in answer["detections"]]  # type: ignore[attr-defined]


def test_pages_hold_every_detection_once(client: httpx.Client) -> None:
    collected: list[str] = []
    for offset in range(0, ROWS + 7, 7):
        answer = page(client, limit=7, offset=offset)
        assert (answer["total"], answer["limit"], answer["offset"]) == (ROWS, 7, offset)
        collected += ids(answer)
    assert sorted(collected) == sorted(IDS)
    first = page(client, limit=1)["detections"][0]  # type: ignore[index]
    assert client.get(detection_url(first["detection_id"])).json() == first


def test_where_chooses_and_pages(client: httpx.Client) -> None:
    where = "label = 'it''s' AND sequence IN ('s0', 's1')"
    expected = [i for row, i in enumerate(IDS) if LABELS[row] == "it's" and row % 4 < 2]
    for _ in range(2):  # the second answer is cached
        answer = page(client, where=where)
        assert answer["total"] == len(expected) > 2
        assert sorted(ids(answer)) == sorted(expected)
        assert ids(page(client, where=where, limit=1, offset=1)) == ids(answer)[1:2]
    assert ids(page(client, where="frame < 0")) == []


@pytest.mark.parametrize(
    ("code", "query"),
    [
        ("invalid_filter", {"where": "colour = 1"}),
        ("invalid_filter", {"where": "read_csv('/etc/passwd')"}),
        ("invalid_request", {"limit": 0}),
        ("invalid_request", {"limit": 1001}),
        ("invalid_request", {"offset": -1}),
    ],
)
def test_invalid_parameters_are_refused(
    client: httpx.Client, code: str, query: dict[str, str | int]
) -> None:
    assert error_of(client.get("/v1/detections", params=query), 422)[0] == code


def test_facets_count_values(client: httpx.Client) -> None:
    answer = client.get("/v1/index/facets", params={"column": "label"}).json()
    counted = [(facet["value"], facet["rows"]) for facet in answer["values"]]
    assert counted == sorted(Counter(LABELS).items(), key=lambda pair: (-pair[1], pair[0]))
    few = client.get("/v1/index/facets", params={"column": "sequence", "limit": 1}).json()
    assert (few["total"], len(few["values"])) == (4, 1)
    assert error_of(client.get("/v1/index/facets?column=colour"), 422)[0] == "invalid_column"


def test_the_track_of_a_detection(client: httpx.Client) -> None:
    listed = client.get("/v1/tracks").json()["tracks"]
    for track in listed:
        detail = client.get("/v1/tracks/" + track["track_id"]).json()
        for step in detail["detections"]:
            answer = client.get(detection_url(step["detection_id"]) + "/track")
            assert answer.json() == detail
    assert sum(track["length"] for track in listed) == 20
    code, message = error_of(client.get(detection_url(IDS[25]) + "/track"), 404)  # of the other run
    assert (code, "onepass link" in message) == ("no_track", True)
    assert error_of(client.get("/v1/detections/nobody/track"), 404)[0] == "detection_not_found"


def test_links_are_those_that_linking_wrote(tmp_path: Path) -> None:
    frames, boxes, vectors, _ = crowd()
    plan = {"image": [f"{frame}.jpg" for frame in frames.tolist()], "frame": frames.tolist()}
    plan |= {side: boxes[:, at].tolist() for at, side in enumerate(("x1", "y1", "x2", "y2"))}
    run = write_run(tmp_path / "run", plan, vectors)
    link_run(run.path)
    build_index([run.path], tmp_path / "index")
    shown = ("detection_id", "frame", "position", "previous_detection_id", "cost", "margin")
    shown += tuple(f"cost_{term}" for term in TERMS)
    served = []
    with serving(tmp_path / "index") as client:
        for track in client.get("/v1/tracks?limit=1000").json()["tracks"]:
            steps = client.get("/v1/tracks/" + track["track_id"]).json()["detections"]
            served += [{name: step[name] for name in shown} for step in steps]
    written = read_tracks(run.path).select(shown).to_pylist()
    assert sum(row["margin"] is not None for row in written) > 30
    by_id = {step["detection_id"]: step for step in served}
    assert len(served) == len(written)
    for row in written:
        assert by_id[row["detection_id"]] == pytest.approx(row, nan_ok=True)


def test_the_page_and_its_files(client: httpx.Client) -> None:
    start = client.get("/")
    assert start.headers["content-type"].startswith("text/html")
    policy = start.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|https?:", start.text)
    documentation = client.get("/docs")
    assert documentation.headers["content-security-policy"] == policy
    urls, seen = re.findall(r'(?:src|href)="(page/[^"]+)"', start.text + documentation.text), set()
    while urls:
        url = urls.pop()
        if url in seen:
            continue
        seen.add(url)
        part = client.get("/" + url)
        assert part.status_code == 200, url
        assert part.headers["content-security-policy"] == policy
        urls += [f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', part.text)]
        again = client.get("/" + url, headers={"if-none-match": part.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    folder = Path(__file__).parents[3] / "api" / "page"
    assert seen == {f"page/{file.name}" for file in folder.iterdir()} - {
        "page/index.html",
        "page/docs.html",
    }
    for name in ("nothing.js", "..%2fapp.py", "%2e%2e%2fapp.py"):
        assert error_of(client.get("/page/" + name), 404)[0] == "not_found"
