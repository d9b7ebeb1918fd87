"""Old features of a database beside the embeddings of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ami.compare import compare_database
from common.errors import RunError, SourceError
from pipelines.sources.read import read_source
from tests.helpers.ami import DETECTIONS, change, fill
from tests.helpers.commands import here
from tests.helpers.runs import write_run
from tests.integration.ami.worlds import DIM, World, world_of


def put(world: World, **features: object) -> None:
    """Give detections, ``d7`` being the 7th, old features."""
    for name, value in features.items():
        key = int(name[1:])
        if isinstance(value, np.ndarray):
            value = value.astype(float).tolist()
        where = DETECTIONS.update().where(DETECTIONS.c.id == key)
        change(world.url, where.values(cnn_features=value))


@pytest.fixture
def world(url: str, tmp_path: Path) -> World:
    """Sixteen detections: four equal, one of them longer, one opposite, seven of no use."""
    world = world_of(url, tmp_path, errors=(16,), link=False)
    own = world.vectors
    put(world, d1=own[1], d2=own[2] + 5e-4, d3=own[3] * (1 + 1e-6))
    put(world, d4=own[4] * 7, d5=-own[5])
    put(world, d6=[], d7=["a"] * DIM, d8=[0.0] * DIM, d9=[1.0] * 2048, d10=[1.0] * 2048)
    put(world, d11={"a": 1}, d12=None)  # JSON's null
    put(world, d16=own[16])
    change(world.url, "DELETE FROM detections WHERE id = 13")
    return world


def test_counts_and_cosines(world: World) -> None:
    comparison = compare_database(world.path, world.url)
    assert (comparison.rows, comparison.failed, comparison.missing) == (16, 1, 3)
    assert comparison.gone.first == ["ami:13"]
    unusable = {why: some.first for why, some in comparison.unusable.items()}
    assert unusable == {
        "empty": ["ami:6"],
        "not numbers": ["ami:7"],
        "all zero": ["ami:8"],
        "no list": ["ami:11"],
    }
    assert comparison.other_dims == {2048: 2}
    assert comparison.compared == 5
    assert comparison.equal == 4
    assert comparison.cosine is not None
    own = world.vectors[2].astype(np.float64)
    moved = own + 5e-4
    near = own @ moved / np.linalg.norm(own) / np.linalg.norm(moved)
    expected = np.quantile([1, near, 1, 1, -1], [0, 0.05, 0.5, 0.95, 1])
    np.testing.assert_allclose([*comparison.cosine.values()], expected, rtol=0, atol=1e-6)
    assert max(comparison.cosine.values()) <= 1


@pytest.mark.parametrize(("off", "equal"), [(0.0, 16), (0.9e-3, 16), (1.1e-3, 0)])
def test_what_equal_means(tmp_path: Path, off: float, equal: int) -> None:
    """One number is off by so much of the largest, in vectors that were divided by their sum."""
    world = world_of(f"sqlite:///{tmp_path}/ami.db", tmp_path, link=False)
    for key, vector in world.vectors.items():
        old = vector.astype(np.float64)
        old /= np.abs(old).sum()
        largest, other = np.argsort(-np.abs(old))[[0, 5]]
        step = off * np.abs(old[largest])
        # In opposite ways, so that the sum stays what it was.
        old[largest] -= step * np.sign(old[largest])
        old[other] += step * np.sign(old[other])
        put(world, **{f"d{key}": old})
    assert compare_database(world.path, world.url).equal == equal


def test_detections_that_are_others_by_now(world: World) -> None:
    change(
        world.url,
        "UPDATE detections SET bbox = '[1, 2, 3, 4]' WHERE id IN (1, 14)",
        "UPDATE detections SET image_id = 200 WHERE id = 2",
    )
    comparison = compare_database(world.path, world.url)
    assert (comparison.moved.count, sorted(comparison.moved.first)) == (
        3,
        ["ami:1", "ami:14", "ami:2"],
    )
    assert (comparison.compared, comparison.equal, comparison.missing) == (3, 2, 2)


def test_nothing_to_compare(url: str, tmp_path: Path) -> None:
    world = world_of(url, tmp_path, link=False)
    comparison = compare_database(world.path, world.url)
    assert (comparison.missing, comparison.compared, comparison.cosine) == (16, 0, None)
    change(url, "ALTER TABLE detections DROP COLUMN cnn_features")
    with pytest.raises(SourceError, match="has no column 'cnn_features' to compare"):
        compare_database(world.path, world.url)


def test_features_with_nan_that_python_wrote(tmp_path: Path) -> None:
    world = world_of(f"sqlite:///{tmp_path}/ami.db", tmp_path, link=False)
    put(world, d1=[float("nan")] * DIM)
    change(world.url, "UPDATE detections SET cnn_features = 'tensor' WHERE id = 2")
    comparison = compare_database(world.path, world.url)
    assert {why: some.first for why, some in comparison.unusable.items()} == {
        "not finite": ["ami:1"],
        "no JSON": ["ami:2"],
    }


def test_an_embedding_without_a_direction(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    fill(url, tmp_path / "traps")
    plan = read_source(url).table.drop_columns(["row_id", "error"])
    looks = np.ones((16, DIM))
    looks[4] = 0
    run = write_run(tmp_path / "run", plan.to_pydict(), looks)
    world = World(url, run, dict(zip(plan["database_id"].to_pylist(), looks, strict=True)))
    put(world, **{f"d{key}": np.ones(DIM) for key in world.vectors})
    comparison = compare_database(world.path, url)
    zero = plan["detection_id"][4].as_py()
    assert {why: some.first for why, some in comparison.unusable.items()} == {
        "all zero in the run": [zero]
    }
    assert (comparison.compared, comparison.equal) == (15, 15)


def test_another_database_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not from sqlite"):
        compare_database(world.path, f"sqlite:///{tmp_path}/other.db")


def test_the_command(world: World) -> None:
    done = here("database", "compare", world.path, world.url)
    assert done.returncode == 0, done.stderr
    assert "11 of 16 detections" in done.stdout
    assert "have features, 3 have none" in done.stdout
    assert "1 have an error in the run" in done.stdout
    assert "1 cannot be used, not numbers: ami:7" in done.stdout
    assert f"2 cannot be compared: 2048 and {DIM} numbers" in done.stdout
    assert "5 compared, cosine: least -1.0000, " in done.stdout
    assert (
        "4 equal: once each is divided by its sum, no number differs by more than 0.001 of"
        in done.stdout
    )
    assert done.stderr == "warning: 1 are gone from the database: ami:13\n"
    machine = json.loads(here("database", "compare", world.path, world.url, "--json").stdout)
    assert machine["compared"] == 5
    assert machine["gone"] == {"count": 1, "first": ["ami:13"]}
    assert machine["other_dims"] == {"2048": 2}
