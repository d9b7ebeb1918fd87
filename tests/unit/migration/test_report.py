"""The report of a migration, on numbers that can be worked out by hand."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.errors import RunError
from common.json_models import write_atomic
from migration import spaces
from migration.align import Rows, align_runs
from migration.compare import compare_runs, run_cost
from migration.labels import compare_labels
from migration.links import (
    changed_links,
    compare_links,
    has_tracks,
    separation,
    threshold,
)
from migration.page import render
from migration.report import Labels, MigrationReport
from migration.spaces import compare_spaces, shared_neighbours
from migration.verdict import Limits, judge
from pipelines.model_info import ModelRequest
from pipelines.run import Run, SessionInfo
from tests.helpers.runs import TINY_FACTS, make_config, request_of, write_run
from tracks.association.options import PRESETS, LinkOptions
from tracks.link import link_run


def run_of(path: Path, vectors: Any, *, names: tuple[str, ...] | None = None, **more: Any) -> Run:
    """A run of rows 0, 1, …; ``names``: all classes of its model."""
    array = np.asarray(vectors, np.float32)
    ids = [f"d{row}" for row in range(len(array))]
    plan = more.pop("plan", {"image": [f"cam/{name}.jpg" for name in ids]})
    run = write_run(path, {"detection_id": ids, **plan}, array, **more)
    if names is not None:
        request = request_of(make_config(), TINY_FACTS, labels=names or None)
        write_atomic(path / "request.json", request.model_dump_json().encode())
    return run


def rows_of(tmp_path: Path, then: Any, now: Any) -> tuple[Rows, Rows]:
    return align_runs(run_of(tmp_path / "then", then), run_of(tmp_path / "now", now))


def labels_of(tmp_path: Path, then: dict[str, Any], now: dict[str, Any]) -> Labels:
    pair = align_runs(
        run_of(tmp_path / "then", np.ones((6, 2)), **then),
        run_of(tmp_path / "now", np.ones((6, 2)), **now),
    )
    return compare_labels(*pair)


def at(*degrees: float) -> np.ndarray:
    """Vectors at these angles, of different lengths."""
    angles = np.radians(degrees)
    return (
        np.column_stack([np.cos(angles), np.sin(angles)]) * np.arange(1, len(degrees) + 1)[:, None]
    )


# -- labels


def test_agreement_is_over_classes_that_both_models_have(tmp_path: Path) -> None:
    labels = labels_of(
        tmp_path,
        {"labels": [*"aabbca"], "names": ("a", "b", "c"), "errors": {5: "empty file: [x]"}},
        {"labels": [*"abbbda"], "names": ("a", "b", "d", "e")},
    )
    assert (labels.by, labels.reason, labels.classes_shared) == ("name", None, 2)
    # Row 4 was c and is d; row 5 had no class.
    assert (labels.rows, labels.only_then, labels.only_now) == (4, 1, 1)
    assert (labels.agreeing, labels.agreement) == (3, 0.75)
    assert [(each.then, each.now, each.rows) for each in labels.changes] == [("a", "b", 1)]
    assert [(each.label, each.rows, each.kept) for each in labels.by_class] == [
        ("a", 2, 1),
        ("b", 2, 2),
    ]


def test_changes_are_listed_most_frequent_first(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, {"labels": [*"aaabbc"]}, {"labels": [*"cbbaac"]})
    changes = [(each.then, each.now, each.rows) for each in labels.changes]
    assert changes == [("a", "b", 2), ("b", "a", 2), ("a", "c", 1)]
    assert labels.agreement == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("then", "now", "reason"),
    [
        (("a", "b"), ("x", "y", "z", "w"), "share no class name: a, b then, w, x, y, … now"),
        ((), ("a", "b"), "the old model has no class names"),
        (("a", "b"), (), "the new model has no class names"),
    ],
)
def test_labels_that_cannot_be_compared(
    tmp_path: Path, then: tuple[str, ...], now: tuple[str, ...], reason: str
) -> None:
    labels = labels_of(tmp_path, {"names": then}, {"names": now})
    assert labels.reason is not None
    assert reason in labels.reason
    assert (labels.agreement, labels.rows, labels.changes) == (None, 0, ())


def test_classes_of_an_untrained_model_are_not_compared(tmp_path: Path) -> None:
    random_weights = TINY_FACTS.model_copy(update={"weights": "random (seed 0)"})
    labels = labels_of(tmp_path, {"names": ()}, {"names": (), "facts": random_weights})
    assert labels.reason == "classes of tiny mean nothing, its weights are random"


def test_without_names_classes_are_compared_by_number(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, {"names": ()}, {"names": ()})  # rows are 0, 1, 2, 0, 1, 2
    assert (labels.by, labels.rows, labels.agreement) == ("number", 6, 1.0)


# -- spaces

OLD = at(0, 10, 20, 90, 100, 110)
NEW = at(0, 10, 90, 20, 100, 110)  # rows 2 and 3 changed places


def test_shared_neighbours_leave_the_query_out() -> None:
    old = np.array([[0, 1, 2], [4, 5, 6]])  # row 7, equal to many, did not find itself
    new = np.array([[3, 0, 1], [7, 5, 4]])
    assert shared_neighbours(old, new, np.array([0, 7]), 2).tolist() == [1, 2]


@pytest.mark.parametrize("block_bytes", [64 * 2**20, 16])
def test_overlap_and_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(spaces, "_BLOCK_BYTES", block_bytes)  # 16: two rows at a time
    near, drift, _ = compare_spaces(*rows_of(tmp_path, OLD, NEW), k=2)
    # Of rows 0, 1, 4, 5 one of two neighbours stays, of rows 2 and 3 none.
    assert (near.queries, near.rows, near.counts) == (6, 6, (2, 4, 0))
    assert near.overlap == pytest.approx(4 / 12)
    assert near.chance == pytest.approx(2 / 5)
    turned = np.cos(np.radians(70))
    assert (drift.reason, drift.rows) == (None, 6)
    assert drift.mean == pytest.approx((4 + 2 * turned) / 6, abs=1e-6)
    assert drift.quantiles["0.5"] == pytest.approx(1, abs=1e-6)
    assert drift.quantiles["0.05"] == pytest.approx(turned, abs=1e-6)
    assert drift.histogram is not None
    assert (drift.histogram.counts[0], sum(drift.histogram.counts)) == (2, 6)


def test_queries_are_drawn_and_the_same_each_time(tmp_path: Path) -> None:
    pair = rows_of(tmp_path, OLD, NEW)
    few = [compare_spaces(*pair, k=2, queries=3)[0] for _ in range(2)]
    assert few[0] == few[1]
    assert (few[0].queries, few[0].rows, sum(few[0].counts)) == (3, 6, 3)


def test_other_dimensions_have_neighbours_and_no_drift(tmp_path: Path) -> None:
    wide = np.column_stack([OLD, np.zeros(6)])
    near, drift, _ = compare_spaces(*rows_of(tmp_path, OLD, wide), k=2)
    assert near.overlap == 1.0
    assert drift.reason == "cannot be compared: 2 and 3 numbers"
    assert drift.mean is None


def test_a_vector_of_zeros_has_no_neighbours(tmp_path: Path) -> None:
    new = NEW.copy()
    new[5] = 0
    near, drift, zeros = compare_spaces(*rows_of(tmp_path, OLD, new), k=2)
    assert zeros == 1
    assert (near.queries, near.rows, drift.rows) == (5, 5, 5)


def test_one_row_has_no_neighbours(tmp_path: Path) -> None:
    near, drift, _ = compare_spaces(*rows_of(tmp_path, OLD[:1], NEW[:1]))
    assert near.reason == "1 rows have an embedding in both runs; neighbours need two"
    assert near.overlap is None
    assert drift.mean == pytest.approx(1)


# -- links


def tracks(**previous: str | None) -> pa.Table:
    return pa.table(
        {
            "detection_id": list(previous),
            "previous_detection_id": pa.array(previous.values(), pa.string()),
        }
    )


def test_changed_links_are_pairs() -> None:
    then = tracks(a=None, b="a", c="b", d="c", e=None)
    now = tracks(a=None, b="a", c="a", d=None, e="d")
    assert changed_links(then, now) == (1, 2, 2)  # kept b; lost c and d; new c and e


def test_threshold_matches_quantiles() -> None:
    linked = np.array([True, True, False, False, False])
    old, new = np.array([0.5, 1.0, 1.5, 2.5, 3.0]), np.array([0.2, 0.6, 1.7, 0.9, 2.0])
    moved = threshold(linked, old, new, 2.0)
    assert (moved.pairs, moved.linked, moved.within) == (5, 2, 3)
    assert moved.suggested == pytest.approx((0.9 + 1.7) / 2)  # three of five lie below it again
    assert moved.linked_within_now == 1.0
    assert moved.then is not None
    assert moved.now is not None
    assert (moved.then.threshold, moved.then.balanced) == (pytest.approx(1.25), 1.0)
    assert moved.now.threshold == pytest.approx(0.75)
    assert moved.linked_now is not None
    assert sum(moved.linked_now.counts) == 2
    everything = threshold(linked, old, new, 5.0)
    assert everything.suggested is None
    assert everything.reason is not None
    assert everything.reason.startswith("all of 5 pairs cost at most 5")


def test_separation_of_what_cannot_be_parted() -> None:
    best = separation(np.array([1.0, 2, 3, 4]), np.array([True, False, True, False]))
    assert best is not None
    assert (best.threshold, best.balanced) == (1.5, 0.75)  # 3.5 parts them as well, and is higher
    assert (best.linked_within, best.others_beyond) == (0.5, 1.0)
    assert separation(np.array([1.0, 2]), np.array([True, True])) is None


A, B = (10.0, 10.0, 20.0, 20.0), (100.0, 10.0, 110.0, 20.0)


@pytest.fixture
def two_still_ones(tmp_path: Path) -> tuple[Rows, Rows]:
    """A and B over three frames; the new model takes each for the other in the second frame."""
    plan = {
        "image": [f"cam/{frame}.jpg" for frame in (0, 0, 1, 1, 2, 2)],
        **dict(zip(("x1", "y1", "x2", "y2"), zip(*(A, B) * 3, strict=True), strict=True)),
    }
    x, y = (1.0, 0.0), (0.0, 1.0)
    then = run_of(tmp_path / "then", [x, y, x, y, x, y], plan=plan)
    now = run_of(tmp_path / "now", [x, y, y, x, x, y], plan=plan)
    return align_runs(then, now)


def test_links_that_would_change(two_still_ones: tuple[Rows, Rows], tmp_path: Path) -> None:
    then, now = two_still_ones
    link_run(then.run.path, options=LinkOptions(max_cost=0.5))
    links, moved = compare_links(then, now, tmp_path)
    assert links.options is not None
    assert links.options.max_cost == 0.5  # as the old run was linked
    # Both are lost in the second frame and found again in the third.
    assert (links.then, links.now) == (4, 2)
    assert (links.kept, links.lost, links.new, links.changed) == (0, 4, 2, 1.0)
    assert (links.tracks_then, links.tracks_now) == (2, 4)
    # Eight pairs: four of one individual, cost 0 then and 1 now; four across. The images are
    # gone, so distances are measured in the extent of the boxes.
    across = 1 + 4 * 90 / np.hypot(110, 20)
    assert (moved.pairs, moved.linked, moved.within) == (8, 4, 4)
    assert moved.suggested == pytest.approx((1 + across) / 2)
    assert moved.linked_within_now == 0.0
    assert has_tracks(now.run.path)  # the old run had some
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_boxes_saved_twice_are_no_pairs_of_their_own(tmp_path: Path) -> None:
    plan = {
        "image": [f"cam/{frame}.jpg" for frame in (0, 0, 0, 1, 1, 1, 2, 2, 2)],
        **dict(zip(("x1", "y1", "x2", "y2"), zip(*(A, A, B) * 3, strict=True), strict=True)),
    }
    looks = [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0)] * 3
    then, now = (run_of(tmp_path / name, looks, plan=plan) for name in ("then", "now"))
    links, moved = compare_links(*align_runs(then, now), tmp_path)
    assert (links.then, links.now, links.tracks_then) == (4, 4, 2)
    assert (moved.pairs, moved.linked, moved.within) == (8, 4, 4)


def test_tracks_of_the_new_run_are_made_only_where_the_old_one_has_some(
    two_still_ones: tuple[Rows, Rows], tmp_path: Path
) -> None:
    then, now = two_still_ones
    links, _ = compare_links(then, now, tmp_path)
    assert links.options == LinkOptions()
    assert links.changed == 0.0  # at 2.0 the place decides
    assert not has_tracks(then.run.path)
    assert not has_tracks(now.run.path)


def test_tracks_that_were_linked_offline_have_no_threshold(
    two_still_ones: tuple[Rows, Rows], tmp_path: Path
) -> None:
    then, now = two_still_ones
    link_run(then.run.path)
    links, moved = compare_links(then, now, tmp_path)
    assert links.options == PRESETS["default"]
    assert links.changed == 0.0
    assert moved.suggested is None
    assert "offline" in str(moved.reason)


def test_one_frame_has_nothing_to_link(tmp_path: Path) -> None:
    plan = {
        "image": ["cam/0.jpg"] * 6,
        "x1": [*range(6)],
        "y1": [0] * 6,
        "x2": [9] * 6,
        "y2": [9] * 6,
    }
    pair = (run_of(tmp_path / name, OLD, plan=plan) for name in ("then", "now"))
    links, moved = compare_links(*align_runs(*pair), tmp_path)
    assert links.reason == "no sequence has detections in two frames, so there is nothing to link"
    assert (links.changed, moved.suggested, moved.reason) == (None, None, links.reason)


# -- cost and verdict


def test_cost(tmp_path: Path) -> None:
    manifest = run_of(tmp_path / "run", OLD).manifest.model_copy(update={"seconds": 50.0})
    assert run_cost(manifest).reason == "the run was made before its session was recorded"
    session = SessionInfo(rows=100, actors=2, gpus=0, rows_a_second=10)
    cost = run_cost(manifest.model_copy(update={"session": session}))
    assert (cost.images_a_second, cost.with_start_up, cost.unit, cost.units) == (10, 2, "core", 2)
    assert cost.unit_hours == pytest.approx(2 * 50 / 3600)
    assert cost.hours_a_million == pytest.approx(1e5 / 3600)
    assert cost.unit_hours_a_million == pytest.approx(2e5 / 3600)
    on_gpus = SessionInfo(rows=100, actors=4, gpus=2, rows_a_second=None)
    cost = run_cost(manifest.model_copy(update={"session": on_gpus}))
    assert (cost.images_a_second, cost.unit, cost.units) == (2, "GPU", 2)
    idle = run_cost(manifest.model_copy(update={"session": SessionInfo(
        rows=0, actors=2, gpus=0, rows_a_second=None)}))  # fmt: skip
    assert (idle.reason, idle.unit_hours) == ("an earlier session had finished every row", None)


@pytest.fixture
def report(tmp_path: Path) -> MigrationReport:
    """Row 0 failed and is fine; rows 4 and 5 were fine and fail; labels by chance alike."""
    then = run_of(tmp_path / "then", OLD, errors={0: "missing file: [x]"})
    now = run_of(tmp_path / "now", NEW, errors={4: "empty file: [y]", 5: "empty file: [z]"})
    return compare_runs(
        then, now, limits=Limits(max_new_failures=1, min_overlap=0.0, max_changed_links=1.0)
    )


def test_counts_and_what_stands_on_the_disk(report: MigrationReport, tmp_path: Path) -> None:
    counts = report.counts
    assert (counts.rows, counts.failed_then, counts.failed_now) == (6, 1, 2)
    assert (counts.newly_failed, counts.newly_fine) == (2, 1)
    assert [row.error for row in counts.first_failures] == ["empty file: [y]", "empty file: [z]"]
    assert report.labels.rows == report.neighbours.rows == 3
    stored = (tmp_path / "now" / "migration" / "report.json").read_bytes()
    assert MigrationReport.model_validate_json(stored) == report


def test_verdict(report: MigrationReport) -> None:
    outcomes = {check.name: check.outcome for check in report.verdict.limits}
    assert outcomes.pop("max_new_failures") == "missed"
    assert set(outcomes.values()) == {"met"}
    assert not report.verdict.passed
    verdict = judge(
        Limits(max_new_failures=2, min_overlap=0.0, max_changed_links=1.0),
        {
            "max_new_failures": (2, None),
            "min_label_agreement": (None, "no names"),
            "min_overlap": (0.0, None),
            "max_changed_links": (1.0, None),
        },
    )
    assert verdict.passed  # exactly at a limit is met; what is not comparable does not fail
    checks = {check.name: (check.outcome, check.measured, check.says) for check in verdict.limits}
    assert checks["max_new_failures"][:2] == ("met", 2)
    assert checks["min_label_agreement"] == ("not comparable", None, "label agreement: no names")


def test_runs_of_other_detections_are_refused(tmp_path: Path) -> None:
    then = run_of(tmp_path / "then", OLD)
    with pytest.raises(RunError, match=r"is no migration of .*: 6 rows and 5 rows"):
        align_runs(then, run_of(tmp_path / "few", OLD[:5]))
    other = write_run(
        tmp_path / "other",
        {"image": [f"{n}.jpg" for n in range(6)], "detection_id": ["d0", "d1", "x", *"345"]},
        OLD,
    )
    with pytest.raises(RunError, match="row 2 is 'd2' and 'x'"):
        align_runs(then, other)


# -- the page


def test_page_has_everything_in_it(tmp_path: Path) -> None:
    nasty = "<script>alert('x')</script> & $x$"
    then = run_of(tmp_path / "then", OLD, labels=[nasty, *"aaaab"], names=(nasty, "a", "b"))
    now = run_of(tmp_path / "now", NEW, labels=["a", *"aaaaa"], names=(nasty, "a", "b"))
    report = compare_runs(then, now, limits=Limits())
    page = render(report)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)='(?!data:)", page)
    plots_ = re.findall(r"src='data:image/svg\+xml;base64,([^']+)'", page)
    assert len(plots_) == 4  # changes, overlap, drift, costs
    for plot in plots_:
        assert base64.b64decode(plot).rstrip().endswith(b"</svg>")
    assert f"{report.neighbours.overlap:.3f}" in page
    assert render(report) == page  # one report, one page


def test_page_says_what_is_not_compared(tmp_path: Path) -> None:
    wide = TINY_FACTS.model_copy(update={"request": ModelRequest(spec="timm:wide")})
    then = run_of(tmp_path / "then", OLD, names=("a",))
    now = run_of(tmp_path / "now", np.hstack([OLD, OLD]), names=(), facts=wide)
    page = render(compare_runs(then, now, limits=Limits()))
    assert "Cannot be compared: 2 and 4 numbers." in page
    assert "Not compared: the new model has no class names; give <code>labels</code>." in page
    assert "1 not comparable" in page
