"""EfficientNet-Lite0 to Lite1 on real images: killed, continued, judged, promoted, rolled back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from index.build.version import build_index
from index.build.versions import rollback
from index.search.snapshot import Snapshot
from index.storage.layout import current_version, read_manifest
from migration.report import MigrationReport
from pipelines.extract import extract
from pipelines.run import Run
from tests.data.test_real_images import top1
from tests.helpers.indexes import true_scores
from tests.helpers.killed_runs import finish, kill_once
from tests.helpers.runs import make_config

EXACT = ("--precision", "fp32", "--engine", "eager")


def nearest(run: Run) -> np.ndarray:
    """The ten nearest others of every image, by definition."""
    vectors = run.embeddings()
    scores = true_scores("cosine", vectors, vectors)
    np.fill_diagonal(scores, -2)
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def test_lite0_to_lite1(data: Path, tmp_path: Path) -> None:
    before, out = tmp_path / "lite0", tmp_path / "lite1"
    index, log = tmp_path / "index", tmp_path / "log"
    old = extract(make_config(source=data / "imagenet", model="lite0"), before).run
    build_index([before], index)
    command = [
        *(sys.executable, "-m", "onepass", "migrate", str(before), "--model", "lite1", *EXACT),
        *("--out", str(out), "--index", str(index)),
    ]
    committed = kill_once(command, out, 5, log)
    assert 0 < committed < 200
    assert current_version(index) == "v0001"
    finish(command, log)
    assert f"{committed} of them from before" in log.read_text()
    assert "verdict: passed" in log.read_text()
    new = Run.open(out)
    assert new.verify() == 200
    assert new.to_arrow(["detection_id", "image"]).equals(old.to_arrow(["detection_id", "image"]))
    # 0.900 and 0.905 of these 200; with another crop or size, points less.
    assert top1(new, data) >= top1(old, data) >= 0.89

    report = MigrationReport.model_validate_json((out / "migration/report.json").read_bytes())
    labels = [run.to_arrow(["label"])["label"].to_pylist() for run in (old, new)]
    agreeing = sum(a == b for a, b in zip(*labels, strict=True))
    assert (report.labels.rows, report.labels.agreeing) == (200, agreeing)
    assert 0.88 <= agreeing / 200 < 1
    assert sum(change.rows for change in report.labels.changes) == 200 - agreeing
    shared = [len(set(a) & set(b)) for a, b in zip(nearest(old), nearest(new), strict=True)]
    assert report.neighbours.overlap == pytest.approx(np.mean(shared) / 10, abs=0.002)  # ties
    a, b = old.embeddings().astype(float), new.embeddings().astype(float)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert report.drift.mean == pytest.approx(cosine.mean(), abs=1e-5)
    assert report.drift.quantiles["0.5"] == pytest.approx(np.median(cosine), abs=1e-5)
    assert (report.counts.newly_failed, report.counts.newly_fine) == (0, 0)

    assert read_manifest(index).fingerprint == new.manifest.fingerprint
    hits = Snapshot.open(index).neighbors(old.to_arrow(["detection_id"])[0][0].as_py(), 10)
    assert hits.rows.shape == (1, 10)
    assert rollback(index).manifest.fingerprint == old.manifest.fingerprint
