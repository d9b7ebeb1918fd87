from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.json_models import configure
from pipelines.config import ExtractConfig
from pipelines.request import Request
from tests.helpers.runs import TINY_FACTS, make_config, request_of


@pytest.mark.parametrize(
    "given", ["map,pyramid", "pyramid,map,pooled", ("map", "pyramid", "map"), ["pyramid", "map"]]
)
def test_features_are_equal_however_they_are_given(given: Any) -> None:
    config = ExtractConfig(source="a", model="tiny", features=given, feature_indices="2,-1")
    usual = ("pooled", "map", "pyramid")
    assert config.features == usual
    same = ExtractConfig(source="a", model="tiny", features=usual, feature_indices=(2, -1))
    assert config.decisive() == same.decisive()


def test_files_are_named_where_they_really_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pth").touch()
    (tmp_path / "latest.pth").symlink_to("weights.pth")
    monkeypatch.chdir(tmp_path)
    config = ExtractConfig(source="a", model="tiny", checkpoint="latest.pth")
    assert config.checkpoint == str((tmp_path / "weights.pth").resolve())


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, "`model`"),
        ({"model": 3}, "`model=3`"),
        ({"model": "tiny", "hdf": True}, "`hdf5`"),
        ({"model": "tiny", "limit": "few"}, "`limit='few'`"),
        ({"model": "tiny", "limit": 0}, "`limit=0`"),
        ({"model": "tiny", "mean": "0.5,0.5"}, "`mean='0.5,0.5'`"),
        ({"model": "tiny", "frames": 3}, "`kind='video'`"),
        ({"model": "tiny", "gate": "tiny"}, "`gate_label`"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], names: str) -> None:
    with pytest.raises(InputError) as refused:
        configure(ExtractConfig, source="photos", **given)
    assert names in str(refused.value)


def test_a_request_of_0_1_0_is_the_same_configuration() -> None:
    config = ExtractConfig(
        source="/photos",
        kind="video",
        frames=8,
        limit=3,
        model="tiny",
        checkpoint="/weights.pth",
        mean=(0.1, 0.2, 0.3),
        gate="lite0",
        gate_label="moth",
        gate_threshold=0.7,
        gate_labels="/names.txt",
        embed_with="gate",
        features="map,pyramid",
        feature_indices="2,-1",
        logits=True,
        hdf5=True,
        top_k=3,
    )
    now = json.loads(request_of(config, TINY_FACTS, inputs={"plan": "1"}).model_dump_json())
    del now["format"], now["config"]
    gate = config.gate_request
    assert gate is not None
    command = {
        "source": config.source,
        "reading": {"kind": "video", "frames": 8, "limit": 3, "again": False},
        "model": config.model_request.model_dump(mode="json"),
        "gate": gate.model_dump(mode="json"),
        "inputs": now.pop("inputs"),
        "outputs": config.outputs.model_dump(mode="json"),
        **{name: getattr(config, name) for name in ("precision", "engine", "top_k", "hdf5")},
    }
    earlier = Request.model_validate({"command": command, **now})
    assert earlier.config == config
    assert earlier == request_of(config, TINY_FACTS, inputs={"plan": "1"})


def test_a_threshold_without_a_gate_does_not_make_it_another_run() -> None:
    usual: dict[str, Any] = {"source": "a", "model": "tiny"}
    gated = usual | {"gate": "tiny", "gate_label": "b"}
    for fields, equal in ((usual, True), (gated, False)):
        strict = ExtractConfig(**fields, gate_threshold=0.9)
        assert (strict.decisive() == ExtractConfig(**fields).decisive()) == equal


def test_how_it_runs_does_not_make_it_another_run() -> None:
    first, other = make_config(executor="local"), make_config(executor="ray", batch_rows=7)
    assert first != other
    assert first.decisive() == other.decisive()
