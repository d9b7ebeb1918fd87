"""A head trained on what one run stored, in the one pass of the next run."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from pipelines.models.scores import softmax
from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.heads import expected_logits, make_head, stored_values
from tests.helpers.pictures import photo_folder
from tests.helpers.refusals import only_error

PHOTOS = 30
EXACT = ("--precision", "fp32", "--engine", "eager")


def extracted(source: Path, out: Path, **given: Any) -> Run:
    fields = {"model": "tiny", "precision": "fp32", "engine": "eager"} | given
    return extract(ExtractConfig(source=source, **fields), out).run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = photo_folder(tmp_path_factory.mktemp("photos"), PHOTOS)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def first(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with embeddings and maps, and which of its rows are good."""
    out = tmp_path_factory.mktemp("runs") / "first"
    run = extracted(photos, out, features=("map",), logits=True)
    good = np.asarray(run.to_arrow(["error"])["error"].is_null())
    assert good.sum() == PHOTOS
    return SimpleNamespace(
        run=run,
        facts=run.manifest.model,
        good=good,
        embedding=stored_values(run, "embedding")[good],
        map=stored_values(run, "feature_map")[good].reshape(-1, 32, 4, 4),
    )


def check_rows(run: Run, first: SimpleNamespace, expected: np.ndarray) -> None:
    """Every class column against logits ``[N, C]`` of the good rows, worked out elsewhere."""
    good, count = first.good, expected.shape[1]
    best = np.sort(expected, axis=1)
    # No row is so close that rounding could decide it, and they are not all of one class.
    assert (best[:, -1] - best[:, -2]).min() > 1e-4
    assert len(np.unique(expected.argmax(1))) > 1
    assert (
        np.abs(stored_values(run, "logits")[good] - expected).max() <= 1e-5 * np.abs(expected).max()
    )
    table = run.to_arrow(["label", "label_index", "score", "topk"]).filter(pa.array(good))
    assert table["label_index"].to_pylist() == expected.argmax(1).tolist()
    assert table["label"].to_pylist() == [f"kind {index}" for index in expected.argmax(1)]
    scores = softmax(expected.astype(np.float32))
    np.testing.assert_allclose(table["score"].to_numpy(), scores.max(1), atol=1e-5)
    for entries, row in zip(table["topk"].to_pylist(), scores, strict=True):
        assert [entry["label"] for entry in entries] == [
            f"kind {index}" for index in np.argsort(-row)[: min(5, count)]
        ]
    assert run.manifest.rows.failed == 1
    assert run.to_arrow(["label"])["label"].null_count == 1


def test_classes_are_those_the_head_gives_the_stored_embeddings(
    first: SimpleNamespace,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = make_head(first.facts, tmp_path / "head.pt", first.embedding, classes=7, hidden=(16,))
    monkeypatch.chdir(tmp_path)
    command = ("extract", photos, "--model", "tiny", "--head", "head.pt", "--logits", *EXACT)
    ended = here(*command, "--out", "run")
    assert ended.returncode == 0, ended.stderr
    assert f"  7 classes by head {tmp_path / 'head.pt'}\n" in ended.stdout
    run = Run.open(tmp_path / "run")
    check_rows(run, first, expected_logits(head, first.embedding))
    facts = run.manifest.model
    assert facts.request.head == str(tmp_path / "head.pt")  # for processes that start elsewhere
    assert (facts.num_classes, facts.feature_dim) == (7, 32)
    # The embedding is the model's own still, to the bit: the two runs can share an index.
    assert (
        stored_values(run, "embedding").tobytes() == stored_values(first.run, "embedding").tobytes()
    )
    assert run.manifest.fingerprint == first.run.manifest.fingerprint


@pytest.mark.parametrize("engine", ["eager", pytest.param("openvino", marks=pytest.mark.long)])
def test_a_head_of_the_map_needs_no_stored_map(
    first: SimpleNamespace, photos: Path, tmp_path: Path, engine: str
) -> None:
    head = make_head(first.facts, tmp_path / "head.pt", first.map, classes=2)
    head_file = tmp_path / "head.pt"
    run = extracted(photos, tmp_path / "run", head=head_file, engine=engine, logits=True)
    assert run.manifest.model.maps == ()
    check_rows(run, first, expected_logits(head, first.map))


def test_a_run_goes_on_only_with_the_head_it_began_with(
    first: SimpleNamespace,
    photos: Path,
    tmp_path: Path,
) -> None:
    file, out = tmp_path / "head.pt", tmp_path / "run"
    make_head(first.facts, file, first.embedding, classes=3)
    then = file.read_bytes()
    command = ("extract", photos, "--model", "tiny", "--head", file, "--out", out, *EXACT)
    assert here(*command).returncode == 0
    labels = Run.open(out).to_arrow(["label"])
    (out / "manifest.json").unlink()  # as if it had ended before its first row
    shutil.rmtree(out / "detections")
    make_head(first.facts, file, first.embedding, classes=3, seed=4)
    ended = here(*command)
    line = only_error(ended.returncode, ended.stdout, ended.stderr)
    assert f"{out} is a run of another command (inputs.head: then '" in line
    assert not (out / "manifest.json").exists()
    file.write_bytes(then)
    assert here(*command).returncode == 0
    run = Run.open(out)
    assert run.to_arrow(["label"]).equals(labels)


def test_a_head_of_another_input_size_leaves_nothing(
    first: SimpleNamespace, photos: Path, tmp_path: Path
) -> None:
    make_head(first.facts, tmp_path / "head.pt", first.embedding, classes=3)
    command = ("extract", photos, "--model", "tiny", "--head", tmp_path / "head.pt")
    ended = here(*command, "--input-size", 48, "--out", tmp_path / "run")
    only_error(ended.returncode, ended.stdout, ended.stderr)
    assert not (tmp_path / "run").exists()
