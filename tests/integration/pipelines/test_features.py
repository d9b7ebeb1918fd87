"""Kept maps, cascades and engines through Ray, on files; and actors on logical GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from onepass.cli.main import main
from pipelines.config import ExtractConfig
from pipelines.extract import extract
from pipelines.run import Run
from tests.helpers.pictures import photo_folder

ROOT = Path(__file__).parents[3]
SMALL = "timm:test_resnet"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = photo_folder(tmp_path_factory.mktemp("photos"), 40)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def stored(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    values: np.ndarray = array.flatten().to_numpy().reshape(len(array), -1)
    return values


def test_maps_and_pyramid_are_kept_as_they_were(photos: Path, tmp_path: Path) -> None:
    config = ExtractConfig(
        source=photos,
        model=SMALL,
        precision="fp32",
        engine="openvino",
        features=("map", "pyramid"),
        feature_indices=(1, -1),
        hdf5=True,
    )
    run = extract(config, tmp_path / "run").run
    assert run.manifest.engine == "openvino"
    facts = run.manifest.model
    names = [info.name for info in facts.maps]
    assert names[0] == "feature_map"
    assert len(names) == 3
    table = run.to_arrow([*names, "embedding", "error"])
    good = np.asarray(table["error"].is_null())
    assert good.sum() == 40
    with h5py.File(run.path / "features.h5") as file:
        order = np.argsort(file["row_id"][:])
        for info in facts.maps:
            values = file[info.name][:][order]
            assert values.shape == (41, *info.shape)
            assert file[info.name].attrs["reduction"] == info.reduction
            assert values.tobytes() == stored(table[info.name]).tobytes()
            assert np.isnan(values[~good]).all()
        # The last level is the map itself, and the embedding is its average.
        assert np.array_equal(file["feature_map"][:], file[names[2]][:], equal_nan=True)
        pooled = file["feature_map"][:].mean((2, 3))
        assert np.allclose(pooled, file["features"][:], atol=1e-4, equal_nan=True)


def test_a_gate_takes_classes_and_leaves_embeddings(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ExtractConfig(source=photos, model="tiny", precision="fp32")
    free = extract(config, tmp_path / "free").run
    tiny_alone = free.to_arrow(["label", "score"])
    counts = pc.value_counts(tiny_alone["label"].drop_null()).to_pylist()
    label = max(counts, key=lambda entry: entry["counts"])["values"]
    of_label = tiny_alone.filter(pc.equal(tiny_alone["label"], label))["score"].to_numpy()
    threshold = f"{np.median(of_label):.6f}"
    arguments = [
        *("extract", str(photos), "--out", str(tmp_path / "run"), "--model", SMALL),
        *("--gate", "tiny", "--gate-label", label, "--gate-threshold", threshold),
        *("--precision", "fp32", "--engine", "eager", "--hdf5"),
    ]
    monkeypatch.setattr(sys, "argv", ["onepass", *arguments])
    main_exits(0)
    printed = capsys.readouterr().out
    run = Run.open(tmp_path / "run")
    rows = run.manifest.rows
    assert (rows.planned, rows.failed) == (41, 1)
    assert 40 - rows.refused == (of_label >= float(threshold)).sum() > 0
    assert f"{rows.refused} rows did not pass the gate" in printed
    table = run.to_arrow(["label_index", "embedding", "gate_label", "gate_score", "error"])
    assert table["label_index"].null_count == rows.refused + rows.failed
    assert np.isfinite(stored(table["embedding"])).all(1).sum() == 40
    # tiny alone calls these images what the gate calls them.
    assert table["gate_label"].to_pylist() == tiny_alone["label"].to_pylist()
    monkeypatch.setattr(sys, "argv", ["onepass", "inspect", str(run.path), "--verify"])
    main_exits(0)
    assert f"tiny passes {label} from {float(threshold):g} on" in capsys.readouterr().out


def main_exits(code: int) -> None:
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == code


def test_a_gate_that_embeds_gives_the_index_its_own_model(photos: Path, tmp_path: Path) -> None:
    config = ExtractConfig(
        source=photos,
        model=SMALL,
        precision="fp32",
        gate="tiny",
        gate_label="tiny 1",
        gate_threshold=0,
        embed_with="gate",
    )
    run = extract(config, tmp_path / "run").run
    assert run.manifest.model.request.spec == "tiny"
    assert run.manifest.classifier is not None
    assert run.manifest.classifier.request.spec == SMALL
    assert stored(run.to_arrow(["embedding"])["embedding"]).shape == (41, 32)


LOGICAL_GPU = """
import json, sys
import ray
from cluster.token import own_token
with own_token():
    ray.init("local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
from pathlib import Path
from cluster.session import session
from pipelines.config import ExtractConfig
from pipelines.extract import extract
with session(gpus_per_actor=0.5) as slots:
    pass
config = ExtractConfig(
    source=sys.argv[1], model="tiny", precision="fp32", gpus_per_actor=0.5
)
run = extract(config, Path(sys.argv[2])).run
run.verify()
print(json.dumps({"actors": slots.actors, "share": slots.gpus_per_actor,
                  "calls": slots.calls_in_flight, "rows": run.manifest.rows.written,
                  "failed": run.manifest.rows.failed}))
ray.shutdown()
"""


@pytest.mark.ray
def test_two_actors_share_a_logical_gpu(photos: Path, tmp_path: Path) -> None:
    """The path of a GPU machine, as far as a machine without one can go."""
    done = subprocess.run(
        [sys.executable, "-c", LOGICAL_GPU, str(photos), str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == {"actors": 2, "share": 0.5, "calls": 2, "rows": 41, "failed": 1}
