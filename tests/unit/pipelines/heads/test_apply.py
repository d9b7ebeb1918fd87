"""Stored features classified, row for row, as the head answers them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from common.errors import InputError, RunError
from common.json_models import sha256_file
from pipelines.heads import features
from pipelines.heads.apply import SCHEMA, Applied, AppliedManifest, apply_head
from pipelines.run import Run
from tests.helpers.heads import expected_logits, make_head
from tests.helpers.probes import blobs, labelled_run

NAMES = ("kind 0", "kind 1", "kind 2")
EXAMPLES = blobs(30, NAMES)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    labels = [*EXAMPLES.labels.tolist()[:27], "kind 9", None, "kind 0"]
    errors = {4: "missing file: gone", 29: "empty file: 0 bytes"}
    return labelled_run(tmp_path / "run", EXAMPLES, plan={"kind": labels}, errors=errors, files=3)


def rows_of(applied: Applied) -> pa.Table:
    return pa.concat_tables(
        [pq.read_table(applied.out / name) for name in applied.manifest.files]
    ).sort_by("row_id")


@pytest.mark.parametrize("classes", [2, 3])
def test_every_row_gets_the_heads_answer(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    monkeypatch.setattr(features, "BATCH_BYTES", 4 * 8 * 4)  # many batches a file
    head = make_head(run.manifest.model, tmp_path / "h.pt", EXAMPLES.features, classes=classes)
    reported: list[tuple[int, int]] = []
    applied = apply_head(run.path, tmp_path / "h.pt", report=lambda *at: reported.append(at))
    assert applied.out == run.path / "heads" / "h"
    assert reported[-1] == (30, 30)
    answers = rows_of(applied)
    assert answers.schema == SCHEMA
    assert answers["row_id"].to_pylist() == list(range(30))
    plan = run.to_arrow(["detection_id", "error"])
    assert answers["detection_id"].to_pylist() == plan["detection_id"].to_pylist()
    assert answers["error"].to_pylist() == plan["error"].to_pylist()
    logits = expected_logits(head, EXAMPLES.features)
    good = [row for row in range(30) if row not in (4, 29)]
    best = logits.argmax(1)
    assert len(set(best[good].tolist())) == classes
    assert answers["label_index"].to_pylist() == [
        int(best[row]) if row in good else None for row in range(30)
    ]
    assert answers["label"].to_pylist() == [
        NAMES[best[row]] if row in good else None for row in range(30)
    ]
    scores = answers["score"].drop_null().to_numpy()
    np.testing.assert_allclose(scores, softmax(logits, axis=1).max(1)[good], rtol=1e-4)
    manifest = AppliedManifest.read(applied.out)
    assert manifest == applied.manifest
    assert (manifest.rows, manifest.failed, manifest.without_features) == (30, 2, 0)
    assert manifest.counts == {
        name: int((best[good] == index).sum()) for index, name in enumerate(NAMES[:classes])
    }
    assert len(manifest.files) == 3
    for name, digest in manifest.files.items():
        assert sha256_file(applied.out / name) == digest
    assert [f.name for f in (run.path / "heads").iterdir()] == ["h"]


def test_answers_are_held_against_labels(run: Run, tmp_path: Path) -> None:
    head = make_head(run.manifest.model, tmp_path / "h.pt", EXAMPLES.features, classes=3)
    applied = apply_head(run.path, tmp_path / "h.pt", labels="kind")
    assert applied.unknown == {"kind 9": 1}
    rows = [row for row in range(27) if row != 4]
    best = expected_logits(head, EXAMPLES.features).argmax(1)[rows]
    truth = np.array(rows) % 3
    assert applied.measures is not None
    assert applied.measures.rows == 26
    assert applied.measures.accuracy == pytest.approx((best == truth).mean())
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (truth, best), 1)
    assert np.array(applied.measures.confusion).tolist() == expected.tolist()


def test_again_finds_it_done(run: Run, tmp_path: Path) -> None:
    make_head(run.manifest.model, tmp_path / "h.pt", EXAMPLES.features, classes=2)
    first = apply_head(run.path, tmp_path / "h.pt")
    before = {f: f.stat().st_mtime_ns for f in first.out.iterdir()}
    again = apply_head(run.path, tmp_path / "h.pt", labels="kind")
    assert (first.already_done, again.already_done) == (False, True)
    assert again.manifest == first.manifest
    assert again.measures is not None
    assert {f: f.stat().st_mtime_ns for f in first.out.iterdir()} == before


def test_a_folder_of_other_answers_is_left_alone(run: Run, tmp_path: Path) -> None:
    facts = run.manifest.model
    make_head(facts, tmp_path / "h.pt", EXAMPLES.features, classes=2)
    first = apply_head(run.path, tmp_path / "h.pt")
    other = labelled_run(tmp_path / "other", blobs(30, NAMES, seed=1))
    make_head(facts, tmp_path / "new.pt", EXAMPLES.features, classes=2, seed=4)
    for source, head, out in (
        (run, "new.pt", first.out),
        (other, "h.pt", first.out),
        (run, "h.pt", run.path / "detections"),
    ):
        before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
        with pytest.raises(RunError):
            apply_head(source.path, tmp_path / head, out=out)
        assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before


def test_what_does_not_fit_the_head(run: Run, tmp_path: Path) -> None:
    facts = run.manifest.model
    other = facts.model_copy(update={"weights_sha256": "1" * 64})
    values = EXAMPLES.features
    for model, like, labels, error in (
        (other, values, None, RunError),
        (facts, values[:, :5], None, RunError),
        (facts, values.reshape(30, 2, 2, 2), None, RunError),
        (facts, values, "sequence", InputError),  # no class of the head there
        (facts, values, "species", RunError),
    ):
        make_head(model, tmp_path / "h.pt", like, classes=2)
        with pytest.raises(error):
            apply_head(run.path, tmp_path / "h.pt", labels=labels)
    assert not (run.path / "heads").exists()


def test_rows_that_the_gate_kept_from_the_model(tmp_path: Path) -> None:
    """They have no error and no features, and so no class and no place in the measures."""
    values = EXAMPLES.features.copy()
    values[[3, 7]] = np.nan
    run = labelled_run(tmp_path / "run", replace(EXAMPLES, features=values), errors={9: "gone"})
    head = make_head(run.manifest.model, tmp_path / "h.pt", EXAMPLES.features, classes=3)
    applied = apply_head(run.path, tmp_path / "h.pt", labels="kind")
    manifest = applied.manifest
    assert (manifest.rows, manifest.failed, manifest.without_features) == (30, 1, 2)
    answers = rows_of(applied)
    assert [row for row, name in enumerate(answers["label"].to_pylist()) if name is None] == [
        3,
        7,
        9,
    ]
    assert answers["error"].null_count == 29
    assert applied.measures is not None
    rows = [row for row in range(30) if row not in (3, 7, 9)]
    best = expected_logits(head, EXAMPLES.features).argmax(1)[rows]
    assert applied.measures.rows == 27
    assert applied.measures.accuracy == pytest.approx((best == np.array(rows) % 3).mean())
