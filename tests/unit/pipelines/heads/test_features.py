"""Which rows are trained on, with which features, labels and parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError, RunError
from pipelines.heads import features
from pipelines.heads.clips import read_clips
from pipelines.heads.features import label_values, read_run
from pipelines.model_info import MapInfo
from pipelines.run import Run
from tests.helpers.probes import blobs, clip_file
from tests.helpers.runs import TINY_FACTS, hash_again, write_run

VALUES = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    plan = {
        "image": [f"{part}/{kind}/{n}.jpg" for n in range(2) for part, kind in PLACES],
        "kind": ["ant", "bee", None, "ant", "", "bee", "ant", "bee"],
        "age": [1, 2, 10, 1, 2, 10, 1, 2],
        "alive": [True, False] * 4,
        "weight": [0.5] * 8,
        "part": ["Training", "val", "train", "test", "train", "valid", None, "validation"],
        "x1": [None, 1.0] * 4,
        "y1": [None, 2.0] * 4,
        "x2": [None, 3.0] * 4,
        "y2": [None, 4.0] * 4,
    }
    return write_run(tmp_path / "run", plan, VALUES, errors={3: "missing file: gone"}, files=3)


PLACES = (("train", "ants"), ("train", "bees"), ("val", "ants"), ("val", "bees"))


def read(run: Run, labels: str, **given: Any) -> features.Examples:
    return read_run(run, labels=labels, kind="pooled", **given)


def test_rows_with_label_and_without_error(run: Run) -> None:
    examples = read(run, "kind")
    assert examples.labels.tolist() == ["ant", "bee", "bee", "ant", "bee"]
    assert examples.features.tobytes() == VALUES[[0, 1, 5, 6, 7]].tobytes()
    assert examples.left_out == {"with an error": 1, "without a value in 'kind'": 2}
    assert examples.images is not None
    assert examples.images.tolist() == [
        *("train/ants/0.jpg", "train/bees/0.jpg", "train/bees/1.jpg"),
        *("val/ants/1.jpg", "val/bees/1.jpg"),
    ]
    assert examples.boxes is not None
    expected = [[np.nan] * 4, [1, 2, 3, 4], [1, 2, 3, 4], [np.nan] * 4, [1, 2, 3, 4]]
    np.testing.assert_array_equal(examples.boxes, expected)
    assert (examples.kind, examples.shape, examples.spec) == ("pooled", (4,), "tiny")
    assert examples.fingerprint == run.manifest.fingerprint
    assert examples.parts is None


def test_numbers_and_truths_are_classes_too(run: Run) -> None:
    assert read(run, "age").labels.tolist() == ["1", "2", "10", "2", "10", "1", "2"]
    truths = ["true", "false", "true", "true", "false", "true", "false"]
    assert read(run, "alive").labels.tolist() == truths


def test_the_folders_name_category_and_split(run: Run) -> None:
    examples = read(run, "category", split_by="split")
    assert examples.labels.tolist() == ["ants", "bees", "ants", "ants", "bees", "ants", "bees"]
    assert examples.parts is not None
    named = ["train", "train", "validation", "train", "train", "validation", "validation"]
    assert examples.parts.tolist() == named


def test_a_column_says_which_part_a_row_belongs_to(run: Run) -> None:
    examples = read(run, "age", split_by="part")
    assert examples.parts is not None
    named = ["train", "validation", "train", "train", "validation", "validation"]
    assert examples.parts.tolist() == named
    assert examples.left_out == {"with an error": 1, "without a value in 'part'": 1}


def test_a_limit_spreads_evenly(run: Run) -> None:
    examples = read(run, "age", limit=3)
    assert examples.features.tobytes() == VALUES[[0, 4, 7]].tobytes()
    assert examples.left_out == {"with an error": 1, "beyond --limit": 4}
    assert read(run, "age", limit=7).left_out == {"with an error": 1}


def test_columns_that_cannot_be_learnt(run: Run, tmp_path: Path) -> None:
    flat = write_run(tmp_path / "flat", {"image": ["a.jpg", "b.jpg"]}, VALUES[:2])
    for source, column in (
        *((run, "species"), (run, "weight")),
        *((flat, "category"), (flat, "split")),
    ):
        with pytest.raises(RunError):
            label_values(source, column)
    with pytest.raises(InputError):
        read(run, "age", split_by="kind")
    plan = {"image": ["a.jpg", "b.jpg"], "kind": ["ant", None]}
    empty = write_run(tmp_path / "empty", plan, VALUES[:2], errors={0: "missing file: gone"})
    with pytest.raises(InputError):
        read(empty, "kind")


def test_features_that_are_not_finite(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[5, 2] = np.inf
    run = write_run(
        tmp_path / "run", {"image": [f"{n}.jpg" for n in range(8)], "kind": ["a", "b"] * 4}, values
    )
    with pytest.raises(InputError, match="row_id 5 "):
        read(run, "kind")


def test_more_than_the_free_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert features.free_bytes() > 2**20
    monkeypatch.setattr(features, "free_bytes", lambda: 3 * 5 * 4 * 4)
    assert len(read(run, "kind").labels) == 5
    monkeypatch.setattr(features, "free_bytes", lambda: 3 * 5 * 4 * 4 - 1)
    with pytest.raises(InputError):
        read(run, "kind")


def test_maps_are_read_flattened(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError):
        read_run(run, labels="kind", kind="map")
    shape = (3, 2, 2)
    maps = np.random.default_rng(1).normal(size=(8, 12)).astype(np.float32)
    known = MapInfo(name="feature_map", level=None, shape=shape, reduction=8)
    facts = TINY_FACTS.model_copy(update={"maps": (known,)})
    plan = {"image": [f"{n}.jpg" for n in range(8)], "kind": ["a", "b"] * 4}
    kept = write_run(tmp_path / "kept", plan, VALUES, facts=facts)
    at = 0
    for file in kept.files():
        table = pq.read_table(file)
        part = maps[at : at + table.num_rows]
        at += table.num_rows
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), 12)
        pq.write_table(table.append_column("feature_map", column), file)
    hash_again(kept.path)
    examples = read_run(Run.open(kept.path), labels="kind", kind="map")
    assert examples.features.tobytes() == maps.tobytes()
    assert (examples.kind, examples.shape) == ("map", shape)


def test_batches_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = blobs(23, ("ant", "bee"), width=5)
    plan = {"image": [f"{n}.jpg" for n in range(23)], "kind": examples.labels.tolist()}
    run = write_run(tmp_path / "run", plan, examples.features, files=4)
    monkeypatch.setattr(features, "BATCH_BYTES", 3 * 5 * 4)
    assert features.batch_rows(5) == 3
    assert read(run, "kind").features.tobytes() == examples.features.tobytes()


def clips() -> list[np.ndarray]:
    stream = np.random.default_rng(2)
    return [stream.normal(size=(n, 4)).astype(np.float32) for n in (3, 1, 4, 2, 5)]


def test_a_clip_is_the_mean_of_its_frames(tmp_path: Path) -> None:
    frames = clips()
    file = clip_file(tmp_path / "clips.h5", frames, [1, 0, -1, 0, 1])
    with h5py.File(file, "a") as opened:
        opened["features"][1, 2] = 99  # past the end of a clip nothing is read
        opened["num_frames"][3] = 0
    examples = read_clips(file)
    assert examples.labels.tolist() == ["bee", "ant", "bee"]
    expected = [frames[row].mean(0) for row in (0, 1, 4)]
    np.testing.assert_allclose(examples.features, expected, rtol=1e-5, atol=1e-7)
    assert examples.left_out == {"without a category": 1, "without frames": 1}
    assert (examples.shape, examples.spec, examples.fingerprint) == ((4,), "tiny", "f" * 64)
    assert examples.parts is None


def test_a_second_clip_file_validates(tmp_path: Path) -> None:
    frames = clips()
    first = clip_file(tmp_path / "a.h5", frames[:3], [0, 1, 0])
    # Its categories stand in another order: names count, not numbers.
    second = clip_file(tmp_path / "b.h5", frames[3:], [0, 1], names=("bee", "ant"))
    examples = read_clips(first, validation=second)
    assert examples.labels.tolist() == ["ant", "bee", "ant", "bee", "ant"]
    assert examples.parts is not None
    assert examples.parts.tolist() == ["train"] * 3 + ["validation"] * 2
    np.testing.assert_allclose(examples.features, [f.mean(0) for f in frames], rtol=1e-5, atol=1e-7)
    few = read_clips(first, validation=second, limit=2)
    assert few.labels.tolist() == ["ant", "ant"]
    assert few.left_out == {"beyond --limit": 3}


def test_clip_files_that_do_not_fit(tmp_path: Path) -> None:
    file = clip_file(tmp_path / "clips.h5", clips(), [0, 1, 0, 1, 0])
    other = clip_file(tmp_path / "other.h5", clips(), [0, 1, 0, 1, 0], fingerprint="e" * 64)
    with pytest.raises(InputError):
        read_clips(file, validation=other)
    with h5py.File(tmp_path / "run.h5", "w") as opened:
        opened["features"] = np.zeros((2, 4))
        opened.attrs.update({"model": "tiny", "fingerprint": "f" * 64})
    clip_file(tmp_path / "blank.h5", clips(), [-1] * 5)
    for name in ("gone.h5", "run.h5", "blank.h5"):
        with pytest.raises(InputError):
            read_clips(tmp_path / name)
