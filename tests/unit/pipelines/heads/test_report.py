"""Measures against cases worked out by hand; the record and pictures beside a head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError, RunError
from common.json_models import configure, read_json
from pipelines.heads.config import TrainConfig
from pipelines.heads.parts import divide, validation_warnings
from pipelines.heads.pictures import ValidatedRow, draw_confusion, draw_validation
from pipelines.heads.report import ProbeRecord, baselines_of, measure
from pipelines.heads.train import train
from pipelines.models.head import head_sha256, load_head
from tests.helpers.pictures import drawn
from tests.helpers.probes import blobs, clip_file, labelled_run

HALF_BLUE = (106, 174, 214)  # the middle of matplotlib's Blues


def config(source: Path, **given: Any) -> TrainConfig:
    return configure(TrainConfig, **{"source": source, "labels": "kind"} | given)


def test_measures_worked_out_by_hand() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    answers = np.array([0, 0, 0, 1, 1, 0, 2, 2])
    found = measure(truth, answers, ("ant", "bee", "moth", "wasp"))
    assert found.rows == 8
    assert found.accuracy == 6 / 8
    assert found.confusion == ((3, 1, 0, 0), (1, 1, 0, 0), (0, 0, 2, 0), (0, 0, 0, 0))
    ant, bee, moth, wasp = (found.classes[name] for name in ("ant", "bee", "moth", "wasp"))
    assert (ant.precision, ant.recall, ant.f1, ant.support) == (0.75, 0.75, 0.75, 4)
    assert (bee.precision, bee.recall, bee.f1, bee.support) == (0.5, 0.5, 0.5, 2)
    assert (moth.precision, moth.recall, moth.f1, moth.support) == (1, 1, 1, 2)
    assert (wasp.precision, wasp.recall, wasp.f1, wasp.support) == (0, 0, 0, 0)
    # Nobody is a wasp and nobody was taken for one: it is no part of the mean.
    assert found.macro_f1 == pytest.approx((0.75 + 0.5 + 1) / 3)


def test_baselines_answer_as_they_should() -> None:
    # Along the first axis or along the second, at any length: by cosine, not by distance.
    lengths = np.array([1, 50, 2, 80, 3, 60, 4, 70, 90, 1, 2, 55, 5, 5, 5], np.float32)
    second = np.array([0, 1] * 4 + [0, 1, 0, 1, 0, 0, 0])
    values = np.stack([lengths * (second == 0), lengths * (second == 1)], axis=1) + 0.01
    examples = replace(
        blobs(15, ("ant", "bee")),
        features=values.astype(np.float32),
        labels=np.where(second, "bee", "ant"),
        parts=np.array(["train"] * 8 + ["validation"] * 4 + ["train"] * 3),
        shape=(2,),
    )
    parts = divide(examples, share=0.2, seed=0)
    found = baselines_of(examples, parts)
    # Seven ants and four bees train; of the two and two that validate, two are ants.
    assert found["majority"]["validation"].accuracy == 0.5
    assert found["majority"]["validation"].macro_f1 == pytest.approx((2 / 3 + 0) / 2)
    assert found["knn"]["validation"].accuracy == 1


def test_rows_of_one_image_on_both_sides_are_noted() -> None:
    examples = blobs(40, ("ant", "bee"))
    parts = divide(examples, share=0.25, seed=0)
    for images, notes in (
        ([f"clip{row // 20}.mp4#frame={row}" for row in range(40)], 1),
        ([f"{row}.jpg" for row in range(40)], 0),
    ):
        assert len(validation_warnings(replace(examples, images=np.array(images)), parts)) == notes
    few = replace(parts, validation=parts.validation[parts.targets[parts.validation] == 0])
    assert "'bee'" in validation_warnings(examples, few)[0]


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_all_that_stands_beside_a_head(tmp_path: Path, hidden: tuple[int, ...]) -> None:
    examples = blobs(40, ("ant", "bee"))
    run = labelled_run(tmp_path / "run", examples, root=tmp_path / "images")
    (tmp_path / "images").mkdir()
    drawn(1).save(tmp_path / "images" / "0000.jpg")
    stages: list[tuple[str, int, int]] = []
    out = tmp_path / "new" / "h.pt"
    trained = train(config(run.path, hidden=hidden), out, report=lambda *at: stages.append(at))
    assert sorted(file.name for file in out.parent.iterdir()) == [
        *("h-confusion.png", "h-validation.png", "h.json", "h.pt"),
    ]
    steps = [at for at in stages if at[0] == "training"]
    assert [done for _, done, _ in steps] == list(range(1, len(steps) + 1))
    record = read_json(tmp_path / "new" / "h.json", ProbeRecord)
    assert record == trained.record
    head = load_head(trained.file)
    assert record.head_sha256 == head_sha256(head)
    assert record.head == head.facts
    assert record.rows == {"train": 32, "validation": 8}
    assert record.measures["validation"].accuracy == 1
    assert record.measures["validation"].confusion == ((4, 0), (0, 4))
    assert record.baselines["majority"]["validation"].accuracy == 0.5
    assert ("linear" in record.baselines) == bool(hidden)  # a linear head is its own
    assert record.config == config(run.path, hidden=hidden)
    for file in trained.reports[1:]:
        with Image.open(file) as image:
            assert min(image.size) > 200
    with pytest.raises(RunError, match=r"h\.pt"):
        train(config(run.path), trained.file)


@pytest.mark.parametrize("many", [2, 9, 400])
def test_confusions_of_any_size_can_be_drawn(tmp_path: Path, many: int) -> None:
    truth = np.arange(many).repeat(2)
    names = tuple(f"{number} of a $kind$ with a long name" for number in range(many))
    measures = measure(truth, np.roll(truth, 1), names)
    draw_confusion(measures, tmp_path / "c.png", title="validation")
    with Image.open(tmp_path / "c.png") as picture:
        assert 300 < picture.width < 3600
        assert 300 < picture.height < 3600
        # Half of each row on the diagonal and half beside it, in one blue.
        colours = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.abs(colours - HALF_BLUE).max(2) <= 2).sum() > 1000


def test_wrong_ones_first_in_red_and_missing_ones_grey(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20), (10, 20, 200)).save(tmp_path / "images" / "a.png")
    whole = (None,) * 4
    rows = [ValidatedRow("a.png", whole, "ant", "ant", 0.9) for _ in range(60)]
    rows.insert(30, ValidatedRow("a.png", (0.0, 0.0, 20.0, 20.0), "ant", "bee", 0.6))
    rows.insert(40, ValidatedRow("gone.png", whole, "ant", "bee", 0.8))
    draw_validation(rows, tmp_path / "images", tmp_path / "sheet.png", title="validation")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)

    def columns_of(colour: tuple[int, int, int]) -> np.ndarray:
        return np.flatnonzero((np.abs(pixels - colour).max(2) <= 3).sum(0) > 40)

    red, green, grey = (columns_of(c) for c in ((214, 39, 40), (44, 150, 60), (200, 200, 200)))
    assert red.min() < grey.min() < red.max() < pixels.shape[1] / 3  # the two wrong ones first
    assert green.max() > pixels.shape[1] * 0.8
    blue = (np.abs(pixels - (10, 20, 200)).max(2) <= 3).mean()
    assert 0.3 < blue < 0.4  # 46 images twice as wide as high, one square


@pytest.mark.parametrize(
    ("clip_source", "given"),
    [
        (False, {"val_share": 0.2, "split_by": "kind"}),
        (False, {"validation": Path("other.h5")}),
        (False, {"random_backbone": True}),  # the run has no request.json to repeat
        (True, {"labels": "kind"}),
        (True, {"features": "map"}),
        (True, {"split_by": "split"}),
        (True, {"random_backbone": True}),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, clip_source: bool, given: dict[str, Any]
) -> None:
    source = labelled_run(tmp_path / "run", blobs(20, ("ant", "bee"))).path
    if clip_source:
        source = clip_file(tmp_path / "c.h5", [np.ones((2, 4))] * 6, [0, 1] * 3)
    before = sorted(tmp_path.rglob("*"))
    labels = "category" if clip_source else "kind"
    with pytest.raises((InputError, RunError)):
        train(config(source, **{"labels": labels} | given), tmp_path / "h.pt")
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_taken(tmp_path: Path) -> None:
    given = config(labelled_run(tmp_path / "run", blobs(20, ("ant", "bee"))).path)
    with pytest.raises(InputError):
        train(given, tmp_path / "h.txt")
    record = tmp_path / "h.json"
    record.write_text(json.dumps({"mine": 1}))
    with pytest.raises(RunError):
        train(given, tmp_path / "h.pt")
    record.unlink()
    trained = train(given, tmp_path / "h.pt")
    trained.file.unlink()  # as if the training had been stopped before it wrote the head
    assert train(given, tmp_path / "h.pt").record == trained.record


def test_a_record_of_0_1_0_is_read(tmp_path: Path) -> None:
    """Its options are in two fields, among them some that are gone."""
    source = labelled_run(tmp_path / "run", blobs(20, ("ant", "bee"))).path
    record = train(config(source, hidden=(8,)), tmp_path / "h.pt").record
    old = json.loads((tmp_path / "h.json").read_text()) | {"format": 1}
    del old["config"], old["chosen"]
    old |= {"source": str(source), "epochs": 3, "best_epoch": 2, "curves": {}}
    old["options"] = {"labels": "kind", "hidden": [8], "dropout": 0.5, "lr": 0.001}
    (tmp_path / "old.json").write_text(json.dumps(old))
    earlier = read_json(tmp_path / "old.json", ProbeRecord)
    assert earlier == record.model_copy(update={"format": 1, "chosen": {}})


def test_of_clips_there_is_no_picture_of_images(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    frames = [stream.normal(5 * (n % 2), 1, size=(3, 4)).astype(np.float32) for n in range(20)]
    clips = clip_file(tmp_path / "c.h5", frames, [0, 1] * 10)
    trained = train(config(clips, labels="category"), tmp_path / "h.pt")
    assert [file.name for file in trained.reports] == ["h.json", "h-confusion.png"]
    assert trained.record.measures["validation"].accuracy == 1
    assert load_head(trained.file).facts.fingerprint == "f" * 64
