"""An index of another model beside the one that is served: built, promoted, rolled back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from api.service.served_index import ServedIndex
from common.errors import SnapshotError
from index.build.update import add_runs, delete_rows
from index.build.version import build_index
from index.build.versions import promote, rollback
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import current_version, list_versions
from migration.candidate import build_candidate, check_replaceable
from pipelines.run import Run
from tests.helpers.indexes import embeddings, make_run, tree, true_scores
from tests.helpers.runs import TINY_FACTS

ROWS = 60
OTHER = TINY_FACTS.model_copy(update={"weights_sha256": "1" * 64})


@pytest.fixture
def old(tmp_path: Path) -> Run:
    """Rows 7 and 8 have an error."""
    errors = {7: "missing file: [x]", 8: "missing file: [y]"}
    return Run.open(make_run(tmp_path / "old", embeddings(ROWS), errors=errors))


@pytest.fixture
def new(tmp_path: Path) -> Run:
    """The same rows in 48 numbers by another model; row 8 has an error still."""
    vectors = embeddings(ROWS, seed=5, dim=48)
    errors = {8: "missing file: [y]"}
    return Run.open(make_run(tmp_path / "new", vectors, errors=errors, facts=OTHER))


@pytest.fixture
def index(tmp_path: Path, old: Run) -> Path:
    build_index([old.path], tmp_path / "index", IndexConfig(metric="l2", recall=0.9))
    return tmp_path / "index"


def ids_of(snapshot: Snapshot) -> set[str]:
    return set(snapshot.rows.filter(snapshot.mask())["detection_id"].to_pylist())


def test_built_beside_promoted_and_rolled_back(index: Path, old: Run, new: Run) -> None:
    before = Snapshot.open(index)
    candidate = build_candidate(index, old, new)
    assert (current_version(index), candidate.version, candidate.parent) == (
        "v0001",
        "v0002",
        "v0001",
    )
    assert (candidate.dim, candidate.fingerprint, candidate.rows) == (
        48,
        OTHER.fingerprint,
        ROWS - 1,
    )
    assert candidate.options == before.manifest.options  # as those of the served one
    assert build_candidate(index, old, new).version == "v0002"  # the same, not built again
    promoted = promote(index, "v0002")
    assert current_version(index) == "v0002"
    vectors = embeddings(ROWS, seed=5, dim=48)
    hits = promoted.search(vectors[:3], 1, exact=True)
    assert promoted.columns(hits.rows[:, 0])["detection_id"] == ["d0", "d1", "d2"]
    assert build_candidate(index, old, new).version == "v0002"  # it is served already
    assert rollback(index).manifest.version == "v0001"
    again = Snapshot.open(index).search(embeddings(3, seed=9), 5)
    expected = true_scores("l2", embeddings(3, seed=9), embeddings(ROWS))
    good = np.delete(expected, [7, 8], axis=1)
    np.testing.assert_allclose(again.scores, np.sort(good, axis=1)[:, :5], atol=1e-5)


def test_a_server_goes_over_and_back_while_it_serves(index: Path, old: Run, new: Run) -> None:
    held = ServedIndex.open(Snapshot.open(index))
    build_candidate(index, old, new)
    over = ServedIndex.open(promote(index, "v0002"), before=held)
    assert over.snapshot.manifest.dim == 48
    back = ServedIndex.open(rollback(index), before=over)
    assert back.snapshot.manifest.dim == 32
    assert len(held.snapshot.neighbors("d0", 3).rows[0]) == 3  # who holds the old one ends on it


def test_what_was_deleted_stays_deleted(index: Path, old: Run, new: Run) -> None:
    delete_rows(index, Filter("row_id < 5"))
    candidate = build_candidate(index, old, new)
    assert (candidate.version, candidate.parent) == ("v0003", "v0002")
    ids = ids_of(Snapshot.open(index, "v0003"))
    # Row 7 is fine now, row 8 is not.
    assert ids == {f"d{row}" for row in range(5, ROWS)} - {"d8"}


def test_built_again_where_the_served_one_changed(index: Path, old: Run, new: Run) -> None:
    assert build_candidate(index, old, new).version == "v0002"
    delete_rows(index, Filter("row_id < 5"))  # v0003, from v0001
    assert build_candidate(index, old, new).version == "v0004"
    assert ids_of(Snapshot.open(index, "v0004")).isdisjoint({"d0", "d4"})


def test_an_index_of_other_runs_is_refused(index: Path, old: Run, new: Run, tmp_path: Path) -> None:
    stranger = Run.open(make_run(tmp_path / "stranger", embeddings(5), prefix="s"))
    before = tree(index)
    with pytest.raises(
        SnapshotError, match=r"serves the run .*old, not .*stranger; give the index"
    ):
        build_candidate(index, stranger, new)
    add_runs(index, [stranger.path])
    before = tree(index)
    with pytest.raises(
        SnapshotError, match=r"rows of 2 runs, and a migration replaces one: .*--candidate"
    ):
        build_candidate(index, old, new)
    assert tree(index) == before
    with pytest.raises(SnapshotError, match="does not exist"):
        check_replaceable(tmp_path / "none", old, new.path)
    assert not (tmp_path / "none").exists()


def test_a_factory_that_does_not_fit_is_refused(tmp_path: Path, old: Run, new: Run) -> None:
    out = tmp_path / "pq"
    build_index([old.path], out, IndexConfig(factory="IVF2,PQ32x4"))  # 48 numbers have no 32 parts
    before = tree(out)
    with pytest.raises(SnapshotError, match=r"PQ32x4.*build with another factory: .*--candidate"):
        build_candidate(out, old, new)
    assert tree(out) == before


def test_runs_of_a_new_model_beside_those_of_the_old(tmp_path: Path, index: Path) -> None:
    """The way for an index of several runs: built by hand, promoted by hand."""
    runs = [
        make_run(tmp_path / name, embeddings(20, seed=seed, dim=48), prefix=name, facts=OTHER)
        for seed, name in enumerate(("a", "b"))
    ]
    with pytest.raises(SnapshotError, match="candidate=True"):
        build_index(runs, index)
    candidate = build_index(runs, index, candidate=True).manifest
    assert (candidate.parent, candidate.made_by, candidate.rows) == ("v0001", "build", 40)
    assert current_version(index) == "v0001"
    promote(index, candidate.version)
    assert rollback(index).manifest.version == "v0001"
    with pytest.raises(SnapshotError, match="does not exist"):
        build_index(runs, tmp_path / "none", candidate=True)
    assert list_versions(tmp_path / "none") == []
