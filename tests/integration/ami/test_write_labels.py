"""Which detections get labels, the model's name with them, and the values that a dry run shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from ami.examples import Example
from ami.write_back import Changes, write_database
from pipelines.model_info import ModelRequest
from tests.helpers.ami import DETECTIONS, change, stored
from tests.helpers.runs import TINY_FACTS
from tests.integration.ami.test_write import (
    ALL,
    LABELS,
    ONLY_FEATURES,
    ONLY_LABELS,
    TRACKS,
    check_written,
)
from tests.integration.ami.worlds import DIM, World, world_of


@pytest.fixture
def world(url: str, tmp_path: Path) -> World:
    return world_of(url, tmp_path)


def test_labels_are_written_only_when_asked_for(world: World) -> None:
    before = stored(world.url, *LABELS)
    done = write_database(world.path, world.url, write_back=True)
    assert [*done.columns] == ["cnn_features", *TRACKS]
    assert stored(world.url, *LABELS) == before
    check_written(world)


@pytest.mark.parametrize("told", [False, True])
def test_what_is_not_a_moth_keeps_its_label(world: World, told: bool) -> None:
    """Features and tracks are written; only ``moth``, and what nobody has judged, gets a label."""
    said = {1: "nonmoth", 2: "Nonmoth ", 3: "not a moth", 4: "Moth", 5: None, 6: "", 7: "beetle"}
    for key, value in said.items():
        row = DETECTIONS.c.id == key
        change(world.url, DETECTIONS.update().where(row).values(binary_label=value))
    kept = set() if told else {1, 2, 3, 7}
    tried = write_database(world.path, world.url, labels=True, label_nonmoths=told)
    done = write_database(world.path, world.url, labels=True, label_nonmoths=told, write_back=True)
    for summary in (tried, done):
        assert summary.nonmoths.count == len(kept)
        assert sorted(summary.nonmoths.first) == [f"ami:{key}" for key in sorted(kept)]
        assert summary.columns["specific_label"] == Changes(changed=16 - len(kept), kept=len(kept))
        assert summary.columns["model_name"] == Changes(filled=16 - len(kept), kept=len(kept))
        assert summary.columns["cnn_features"] == Changes(filled=16)
    now = stored(world.url, *LABELS, "binary_label")
    check_written(world, set(now) - kept, with_labels=True)
    check_written(world, kept)
    assert {key: now[key]["binary_label"] for key in said} == said


def test_a_database_that_does_not_tell_moths(world: World) -> None:
    change(world.url, "ALTER TABLE detections DROP COLUMN binary_label")
    done = write_database(world.path, world.url, labels=True)
    assert done.columns["specific_label"] == Changes(changed=16)
    assert done.nonmoths.count == 0


@pytest.mark.parametrize(
    ("of_run", "name"),
    [
        (ModelRequest(spec="timm:resnet50"), "timm:resnet50"),
        (
            ModelRequest(spec="timm:resnet50", checkpoint="/models/2024/quebec.pth"),
            "timm:resnet50 (quebec.pth)",
        ),
        (ModelRequest(spec="lite0", head="heads/moths.json"), "lite0 (moths.json)"),
        (ModelRequest(spec="lite0", checkpoint="x" * 400), f"lite0 ({'x' * 248}"),
    ],
)
def test_the_name_of_the_model_stands_with_its_labels(
    url: str, tmp_path: Path, of_run: ModelRequest, name: str
) -> None:
    world = world_of(url, tmp_path, facts=TINY_FACTS.model_copy(update={"request": of_run}))
    change(url, "UPDATE detections SET model_name = 'Moth / Non-Moth Classifier'")
    tried = write_database(world.path, url, **ONLY_LABELS)
    shown = {one.after for one in tried.examples if one.column == "model_name"}
    assert shown == {name if len(name) <= 60 else f"{name[:59]}…"}
    write_database(world.path, url, **ONLY_LABELS, write_back=True)
    assert {row["model_name"] for row in stored(url, "model_name").values()} == {name}


def test_labels_of_another_model_than_the_embeddings(url: str, tmp_path: Path) -> None:
    """Behind a gate whose embeddings are kept, the classes are those of the model."""
    world = world_of(url, tmp_path)
    manifest = world.run.manifest
    species = manifest.model.model_copy(update={"request": ModelRequest(spec="timm:species")})
    manifest.model_copy(update={"classifier": species}).write(world.path)
    write_database(world.path, url, **ONLY_LABELS, write_back=True)
    assert {row["model_name"] for row in stored(url, "model_name").values()} == {"timm:species"}


def test_ten_values_before_and_after(world: World) -> None:
    old = {"cnn_features": [0.5] * 5, "sequence_id": "20220621-SEQ-1", "specific_label": "y" * 99}
    change(world.url, DETECTIONS.update().where(DETECTIONS.c.id == 7).values(old))
    change(world.url, "UPDATE detections SET sequence_previous_cost = 0.125 WHERE id = 1")
    before = stored(world.url, *ALL)
    examples = write_database(world.path, world.url, labels=True).examples
    assert len(examples) == 10
    assert {one.column for one in examples} == set(ALL)
    first = {one.column: one for one in reversed(examples)}
    vector = world.vectors[7]
    shown = ", ".join(f"{number:.6g}" for number in vector[:3])
    assert first["cnn_features"] == Example(
        "ami:7", "cnn_features", "5 numbers: 0.5, 0.5, 0.5, …", f"{DIM} numbers: {shown}, …"
    )
    track = world.tracks()[7]["sequence_id"]
    assert first["sequence_id"] == Example("ami:7", "sequence_id", "20220621-SEQ-1", track)
    assert first["sequence_previous_cost"] == Example(
        "ami:1", "sequence_previous_cost", 0.125, None
    )
    assert first["model_name"].before is None
    labels = [one for one in examples if one.column == "specific_label"]
    assert {one.before for one in labels} <= {"Noctua pronuba", f"{'y' * 59}…"}
    write_database(world.path, world.url, labels=True, write_back=True)
    now = stored(world.url, *ALL)
    for one in examples:  # what was shown is what was there, and what came
        key = int(one.detection.removeprefix("ami:"))
        for value, row in ((one.before, before[key]), (one.after, now[key])):
            if value is None or isinstance(value, int):
                assert row[one.column] == value
            elif isinstance(value, float):
                assert row[one.column] == pytest.approx(value)
    few = write_database(world.path, world.url, labels=True).examples
    assert few == []


@pytest.mark.parametrize(
    ("old", "shown"),
    [
        ("{}", "{}"),
        ("[]", "[]"),
        ('["a"]', '["a"]'),
        ("[1.5, NaN]", "[1.5, NaN]"),
        ("[1.5]", "1 numbers: 1.5"),
        ("null", None),
    ],
)
def test_features_that_are_none_are_shown_as_they_are(
    tmp_path: Path, old: str, shown: str | None
) -> None:
    world = world_of(f"sqlite:///{tmp_path}/ami.db", tmp_path)
    texts = sa.table("detections", sa.column("id"), sa.column("cnn_features", sa.Text()))
    change(world.url, texts.update().where(texts.c.id == 1).values(cnn_features=old))
    examples = write_database(world.path, world.url, **ONLY_FEATURES).examples
    assert [one.before for one in examples if one.detection == "ami:1"] == [shown]
