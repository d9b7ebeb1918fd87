"""Runs with weights from a checkpoint, through the command line: which, said and continued."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from common.errors import InputError
from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.pictures import photo_folder

MODEL = "timm:test_vit"
CLASSES = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As timm's train.py leaves one: weights, their average, the optimizer's, arguments."""
    states = {}
    for seed, name in enumerate(("state_dict", "state_dict_ema")):
        torch.manual_seed(seed)
        states[name] = timm.create_model("test_vit", num_classes=CLASSES).state_dict()
    file = tmp_path_factory.mktemp("weights") / "model_best.pth.tar"
    arguments = argparse.Namespace(model="test_vit", data_dir=Path("/data"))
    torch.save(states | {"args": arguments, "epoch": 9, "metric": np.float64(71.5)}, file)
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), 4)


def expected(checkpoint: Path, photo: Path, key: str) -> np.ndarray:
    """The embedding by timm's own network, weights and transforms."""
    network = timm.create_model("test_vit", num_classes=0)
    network.load_state_dict(torch.load(checkpoint, weights_only=False)[key], strict=False)
    how = timm.data.create_transform(
        **timm.data.resolve_model_data_config(network), is_training=False
    )
    with torch.inference_mode():
        return network.eval()(how(Image.open(photo).convert("RGB"))[None])[0].numpy()


@pytest.mark.parametrize(
    ("weights", "key"),
    [((), "state_dict_ema"), (("ema",), "state_dict_ema"), (("raw",), "state_dict")],
)
def test_a_run_says_which_weights_it_is_of(
    tmp_path: Path, photos: Path, checkpoint: Path, weights: tuple[str, ...], key: str
) -> None:
    out = tmp_path / "run"
    command = ("extract", photos, "--model", MODEL, "--checkpoint", checkpoint, "--out", out)
    options = ("--precision", "fp32", "--engine", "eager")
    chosen = tuple(part for value in weights for part in ("--weights", value))
    done = here(*command, *options, *chosen)
    assert done.returncode == 0, done.stderr
    assert f"{checkpoint} ({key})" in done.stdout
    run = Run.open(out)
    assert run.manifest.model.weights == f"{checkpoint} ({key})"
    assert run.manifest.config is not None
    assert run.manifest.config.weights == (weights[0] if weights else None)
    table = run.to_arrow(["image", "embedding"])
    for image, embedding in zip(
        *(table[name].to_pylist() for name in table.column_names), strict=True
    ):
        one, other = np.array(embedding), expected(checkpoint, photos / image, key)
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.999
    assert here("inspect", out, "--verify").returncode == 0
    assert here(*command, *options, *chosen).returncode == 0
    other_weights = "raw" if weights != ("raw",) else "ema"
    refused = here(*command, *options, "--weights", other_weights)
    assert refused.returncode == InputError.exit_code
    assert "weights" in refused.stderr


def test_a_gate_with_weights_of_a_checkpoint(
    tmp_path: Path, photos: Path, checkpoint: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("moth\nfly\nbee\nnone\n")
    shas = {}
    for weights in ("ema", "raw"):
        out = tmp_path / weights
        done = here(
            *("extract", photos, "--model", "tiny", "--gate", MODEL, "--gate-label", "moth"),
            *("--gate-checkpoint", checkpoint, "--gate-labels", names, "--embed-with", "gate"),
            *("--gate-weights", weights, "--out", out),
        )
        assert done.returncode == 0, done.stderr
        shas[weights] = Run.open(out).manifest.model.weights_sha256
    assert shas["ema"] != shas["raw"]


@pytest.mark.parametrize(
    "options",
    [
        ("--model", MODEL, "--weights", "raw"),
        ("--model", "tiny", "--gate", "tiny", "--gate-label", "tiny 1", "--gate-weights", "ema"),
    ],
)
def test_weights_of_no_checkpoint_are_refused(
    tmp_path: Path, photos: Path, options: tuple[str, ...]
) -> None:
    refused = here("extract", photos, *options, "--out", tmp_path / "run")
    assert refused.returncode == InputError.exit_code
    assert "checkpoint" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_another_size_of_a_transformer(tmp_path: Path, photos: Path, checkpoint: Path) -> None:
    out = tmp_path / "run"
    done = here(
        *("extract", photos, "--model", "timm:vit_tiny_patch16_224", "--input-size", 96),
        *("--random-weights", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    assert Run.open(out).manifest.rows.failed == 0
    described = here(
        *("models", "describe", MODEL, "--checkpoint", checkpoint, "--weights", "raw", "--json")
    )
    assert json.loads(described.stdout)["weights"] == f"{checkpoint} (state_dict)"
    refused = here(
        *("extract", photos, "--model", "timm:vit_tiny_patch16_224", "--input-size", 100),
        *("--random-weights", "--out", tmp_path / "other"),
    )
    assert refused.returncode == InputError.exit_code
    assert "multiples of 16" in refused.stderr
