"""A trained head in the one pass, in place of a model's own; and networks left untrained."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch

from common.errors import ModelError, WorkError
from onepass.cli.extract import print_extracted
from pipelines.detections import complete
from pipelines.engines import candidates
from pipelines.engines.embed import Embedder
from pipelines.engines.engine import Engine
from pipelines.engines.resolve import resolve
from pipelines.engines.unresolved import Unresolved
from pipelines.extract import Outcome
from pipelines.model_info import ModelInfo, ModelRequest, Outputs, PrecisionAudit
from pipelines.models.base import Loaded
from pipelines.models.registry import describe, examine, load_backbone, load_verified
from pipelines.models.scores import softmax
from pipelines.models.timm_family import TimmBackbone
from pipelines.request import fingerprint_inputs
from pipelines.run import Run
from tests.helpers.heads import expected_logits, make_head
from tests.helpers.pictures import drawn, encoded
from tests.helpers.runs import TINY_FACTS, make_config, request_of, write_run
from tests.helpers.tiny import HEADS, TINY, check_head, close, reference_map, with_head

pytestmark = pytest.mark.usefixtures("own_cache")

ZEROS = np.zeros((1, 32), np.float32)  # features of tiny, where their values do not matter


@pytest.fixture(scope="module")
def facts() -> ModelInfo:
    return examine(TINY)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([np.asarray(drawn(n, width=32, height=32)) for n in range(40)])


def empty_plan() -> pa.Table:
    return complete(pa.table({"image": ["a.jpg"]}), where="test plan").slice(0, 0)


@pytest.mark.parametrize(("classes", "features", "hidden"), HEADS)
def test_the_head_answers_in_the_pass(
    facts: ModelInfo,
    pixels: np.ndarray,
    tmp_path: Path,
    classes: int,
    features: str,
    hidden: tuple[int, ...],
) -> None:
    check_head(facts, pixels, tmp_path / "h.pt", "eager", classes, features, hidden)


@pytest.mark.parametrize("features", ["pooled", "map"])
def test_the_head_is_exact_where_the_body_rounds(
    facts: ModelInfo, pixels: np.ndarray, tmp_path: Path, features: str
) -> None:
    grid = reference_map(pixels)
    like = grid if features == "map" else grid.mean((2, 3))
    head = make_head(facts, tmp_path / "h.pt", like, classes=4)
    headed = examine(with_head(tmp_path / "h.pt"), Outputs(map=True))
    found = Engine(headed, "bf16")(pixels)
    assert not close(found.maps[0], grid)
    assert close(
        found.logits, expected_logits(head, found.maps[0] if like is grid else found.embedding)
    )


def test_the_head_sees_the_feature_point_asked_for(tmp_path: Path) -> None:
    """MobileNetV3's penultimate features are 1024, its map has 576 channels."""
    penultimate = ModelRequest(spec="torchvision:mobilenet_v3_small", input_size=64)
    request = penultimate.model_copy(update={"feature_point": "map_mean"})
    bare, file = examine(request), tmp_path / "h.pt"
    pixels = np.stack([np.asarray(drawn(n, width=64, height=64)) for n in range(4)])
    embedding = Engine(bare, "fp32")(pixels).embedding
    assert embedding.shape == (4, 576)
    head = make_head(bare, file, embedding, classes=3)
    found = Engine(examine(with_head(file, request)), "fp32")(pixels)
    assert np.array_equal(found.embedding, embedding)
    assert close(found.logits, expected_logits(head, embedding))
    with pytest.raises(ModelError, match="was trained on features of torchvision:mobilenet_v3_sm"):
        examine(with_head(file, penultimate))


def test_what_a_head_changes_in_the_facts(facts: ModelInfo, tmp_path: Path) -> None:
    make_head(facts, tmp_path / "a.pt", ZEROS, classes=5)
    make_head(facts, tmp_path / "b.pt", ZEROS, classes=5, seed=4)
    one, two = (examine(with_head(tmp_path / name)) for name in ("a.pt", "b.pt"))
    assert one.fingerprint == two.fingerprint == facts.fingerprint
    assert len({of.answers_sha256 for of in (facts, one, two)}) == 3
    assert one.num_classes == 5
    assert one.feature_dim == facts.feature_dim
    names = "kind 0\nkind 1\nkind 2\nkind 3\nkind 4"
    assert one.labels_sha256 == hashlib.sha256(names.encode()).hexdigest()
    assert one.head is not None
    assert one.head.classes[4] == "kind 4"


def test_an_upload_gets_the_heads_classes(facts: ModelInfo, tmp_path: Path) -> None:
    picture = encoded(drawn(4), "PNG")
    plain = Embedder.load(facts).embed_bytes(picture)
    head = make_head(facts, tmp_path / "h.pt", ZEROS, classes=5)
    found = Embedder.load(examine(with_head(tmp_path / "h.pt"))).embed_bytes(picture)
    assert np.array_equal(found.embedding, plain.embedding)
    scores = softmax(expected_logits(head, found.embedding[None]).astype(np.float32))[0]
    assert found.label_index == scores.argmax()
    assert found.label == f"kind {scores.argmax()}"
    assert [entry["label"] for entry in found.topk] == [
        f"kind {index}" for index in np.argsort(-scores)
    ]
    assert found.score == pytest.approx(scores.max(), abs=1e-5)


def test_heads_that_do_not_fit_are_refused(facts: ModelInfo, tmp_path: Path) -> None:
    file = tmp_path / "h.pt"
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    for like, changed in (
        (ZEROS, {"input_size": 48}),
        (ZEROS, {"labels": "names.txt"}),  # it has names of its own
        (np.zeros((1, 32, 5, 5), np.float32), {}),
        (ZEROS[:, :31], {}),
    ):
        make_head(facts, file, like, classes=3)
        with pytest.raises(ModelError):
            examine(with_head(file, TINY.model_copy(update=changed)))
    with pytest.raises(ModelError):
        examine(with_head(tmp_path / "gone.pt"))


def test_a_head_that_changed_is_refused(
    facts: ModelInfo, pixels: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "h.pt"
    make_head(facts, file, ZEROS, classes=3)
    request = with_head(file)
    headed = examine(request)
    plan = pa.table({"image": ["a.jpg"]})
    config = make_config(request)
    then = fingerprint_inputs(plan, config)
    assert then["head"] == hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    make_head(facts, file, ZEROS, classes=3, seed=4)
    assert fingerprint_inputs(plan, config)["head"] != then["head"]
    for load in (load_verified, Embedder.load, lambda of: Engine(of, "fp32")):
        with pytest.raises(ModelError, match=r"h.pt.* hashes to \w{12} here"):
            load(headed)
    file.unlink()
    with pytest.raises(ModelError, match=r"h\.pt"):
        fingerprint_inputs(plan, config)


def test_an_unfinished_run_is_not_continued_with_another_head(
    facts: ModelInfo, tmp_path: Path
) -> None:
    file = tmp_path / "h.pt"
    make_head(facts, file, ZEROS, classes=3)
    config = make_config(with_head(file))
    earlier = request_of(config, examine(config.model_request))
    make_head(facts, file, ZEROS, classes=3, seed=4)
    given = Unresolved(config, {}, empty_plan(), str(tmp_path), rows=1, earlier=earlier)
    with pytest.raises(WorkError, match=r"h\.pt.* is another file now"):
        resolve(given, lanes=1)


def test_with_a_head_classes_mean_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one neither an encoder's classes nor those of random weights do."""

    def encoder(request: ModelRequest) -> Loaded:
        bare = TimmBackbone(timm.create_model("test_vit", num_classes=0))
        return replace(load_backbone(request), backbone=bare, weights="trained.pth")

    vit = ModelRequest(spec="timm:test_vit")
    # Between the bar for embeddings alone and the one for classes.
    rounded = PrecisionAudit(rows=64, cosine_mean=0.9995, cosine_min=0.99, top1_agreement=1.0)
    for load in (load_backbone, encoder):
        torch.manual_seed(0)
        bare = describe(load(vit), vit, Outputs())
        like = np.zeros((1, bare.feature_dim), np.float32)
        make_head(bare, tmp_path / "h.pt", like, classes=3)
        monkeypatch.setattr(candidates, "load_backbone", load)
        for request, matters in ((vit, False), (with_head(tmp_path / "h.pt", vit), True)):
            torch.manual_seed(0)
            model = candidates.Candidates(request, Outputs(), empty_plan(), tmp_path)
            assert model.has_classes == (load is not encoder or matters)
            assert (model.rejection("bf16", rounded) is None) == (not matters)


@pytest.mark.parametrize("spec", ["tiny", "timm:test_resnet"])
def test_what_is_untrained_already_stays_as_it_is(spec: str) -> None:
    plain, random = (examine(ModelRequest(spec=spec, random_weights=way)) for way in (False, True))
    assert random.weights_sha256 == plain.weights_sha256
    assert random.fingerprint == plain.fingerprint


@pytest.mark.parametrize("given", [{"checkpoint": "w.pth"}, {"pretrained": True}])
@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18", "ami:resnet50"])
def test_trained_weights_are_not_random(spec: str, given: dict) -> None:
    with pytest.raises(ModelError, match=f"random_weights.*{next(iter(given))}"):
        examine(ModelRequest(spec=spec, random_weights=True, **given))


@pytest.mark.parametrize(
    ("given", "warned"), [({}, True), ({"random_weights": True}, False), ({"head": "h.pt"}, False)]
)
def test_random_weights_are_warned_of_unless_they_were_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: dict, warned: bool
) -> None:
    request = TINY.model_copy(update=given)
    facts = TINY_FACTS.model_copy(update={"request": request, "weights": "random (seed 0)"})
    run = write_run(tmp_path / "run", {"image": ["a.jpg"]}, ZEROS, facts=facts, files=1)
    manifest = run.manifest.model_copy(update={"seconds": 1.0})
    print_extracted(Outcome(Run(run.path, manifest)))
    assert ("random weights" in capsys.readouterr().err) == warned
