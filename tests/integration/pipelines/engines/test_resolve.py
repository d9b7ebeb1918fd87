"""What a command leaves open: resolved on the run's own images, and the reason said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm

from common.errors import ModelError, WorkError
from pipelines.engines import candidates, openvino
from pipelines.engines.resolve import resolve
from pipelines.engines.unresolved import Unresolved, sample_of
from pipelines.model_info import ModelRequest
from pipelines.models.base import Loaded
from pipelines.models.registry import load_backbone
from pipelines.models.timm_family import TimmBackbone
from pipelines.request import Request
from pipelines.sources.read import read_source
from tests.helpers.pictures import photo_folder
from tests.helpers.runs import make_config

pytestmark = pytest.mark.usefixtures("own_cache")

TINY = ModelRequest(spec="tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), 24)


def resolve_photos(
    photos: Path, rows: int = 24, *, earlier: Request | None = None, **fields: Any
) -> Request:
    config = make_config(
        **({"source": str(photos), "precision": "auto", "engine": "auto"} | fields)
    )
    plan = read_source(str(photos))
    unresolved = Unresolved(config, {}, sample_of(plan.table), str(plan.root), rows, earlier)
    return resolve(unresolved, lanes=2).resolved.request


def test_an_engine_is_built_where_the_rows_repay_it(photos: Path) -> None:
    few, many = resolve_photos(photos, 24), resolve_photos(photos, 10**7)
    assert few.engine == "eager"
    assert any("do not repay building" in note for note in few.notes)
    assert many.engine == "openvino"
    assert any("repay building it" in note for note in many.notes)


def test_an_engine_that_cannot_take_the_network_is_passed_over(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ModelError("this network cannot be converted")

    monkeypatch.setattr(openvino, "load", refuse)
    estimates = candidates.ESTIMATES["cpu"]
    monkeypatch.setitem(candidates.ESTIMATES, "cpu", {"openvino": estimates["openvino"]})
    resolved = resolve_photos(photos, 10**7)
    assert resolved.engine == "eager"
    assert any("openvino passed over" in note for note in resolved.notes)
    with pytest.raises(ModelError, match="cannot be converted"):
        resolve_photos(photos, 10, engine="openvino")


def test_auto_takes_half_precision_only_where_classes_survive(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.engines.resolve.fast_formats", lambda device: ["bf16", "fp32"])
    robust = resolve_photos(photos)  # three convolutions hardly round
    assert robust.precision == "bf16"
    assert robust.audit is not None
    assert robust.audit.rows == 16
    assert robust.audit.cosine_mean >= 0.9999
    delicate = resolve_photos(photos, model=ModelRequest(spec="lite0"), engine="eager")
    assert delicate.precision == "fp32"
    assert delicate.audit is None  # eager float32 is the exact answer itself
    assert any("`precision='bf16'` trades" in note for note in delicate.notes)
    insisted = resolve_photos(
        photos, model=ModelRequest(spec="lite0"), engine="eager", precision="bf16"
    )
    assert insisted.precision == "bf16"
    assert insisted.audit is not None
    assert 0.99 < insisted.audit.cosine_mean < 0.9999
    # As on GPUs, which are as fast in fp16 and round less there.
    monkeypatch.setattr(
        "pipelines.engines.resolve.fast_formats", lambda device: ["bf16", "fp16", "fp32"]
    )
    finer = resolve_photos(photos, model=ModelRequest(spec="lite0"), engine="eager")
    assert finer.precision == "fp16"
    assert finer.audit is not None
    assert finer.audit.cosine_mean >= 0.9999
    assert any(note.startswith("precision fp16: bf16 moves") for note in finer.notes)


def test_an_encoder_says_that_its_classes_mean_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = ModelRequest(spec="timm:test_vit")
    resolved = resolve_photos(photos, model=vit, engine="eager")
    assert not [note for note in resolved.notes if "no classifier" in note]

    def without_classifier(request: ModelRequest) -> Loaded:
        encoder = TimmBackbone(timm.create_model("test_vit", num_classes=0))
        return replace(load_backbone(request), backbone=encoder)

    monkeypatch.setattr(candidates, "load_backbone", without_classifier)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where the network is not known yet
    bare = resolve_photos(photos, model=vit, engine="eager")
    assert bare.notes[-1] == "timm:test_vit has no classifier: its classes mean nothing"


def test_a_gate_needs_a_label_it_has(photos: Path) -> None:
    resolved = resolve_photos(photos, gate="tiny", gate_label="tiny 3")
    assert resolved.gate is not None
    assert resolved.gate.label_index == 3
    assert resolved.labels == tuple(f"tiny {n}" for n in range(10))
    with pytest.raises(ModelError, match=r"moth.*: tiny has tiny 0, tiny 1"):
        resolve_photos(photos, gate="tiny", gate_label="moth")


def test_a_run_goes_on_as_it_began(photos: Path) -> None:
    first = resolve_photos(photos, 24, precision="bf16")
    assert resolve_photos(photos, 10**7, precision="bf16", earlier=first) == first
    other = first.model_copy(
        update={"facts": first.facts.model_copy(update={"weights_sha256": "0" * 64})}
    )
    with pytest.raises(WorkError, match="the model is not what this run was started with"):
        resolve_photos(photos, earlier=other, precision="bf16")


def test_images_that_cannot_be_read_do_not_resolve_anything(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    resolved = resolve_photos(tmp_path, 1)
    assert resolved.engine == "eager"
    assert resolved.audit is None
