"""Old features of a database beside the embeddings of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import RunError, SourceError
from index.database.compare import compare_database
from tests.ami import DETECTIONS, change
from tests.commands import onepass
from tests.integration.database.worlds import DIM, World, world_of


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
    """Sixteen detections: three equal, one near, one opposite, seven of no use, two without."""
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
    found = compare_database(world.path, world.url)
    assert (found.rows, found.failed, found.missing) == (16, 1, 3)
    assert found.gone.first == ["ami:13"]
    unusable = {why: some.first for why, some in found.unusable.items()}
    assert unusable == {
        "empty": ["ami:6"],
        "not numbers": ["ami:7"],
        "all zero": ["ami:8"],
        "no list": ["ami:11"],
    }
    assert found.other_dims == {2048: 2}
    assert found.compared == 5
    assert found.equal == 3
    assert found.cosine is not None
    own = world.vectors[2].astype(np.float64)
    moved = own + 5e-4
    near = own @ moved / np.linalg.norm(own) / np.linalg.norm(moved)
    expected = np.quantile([1, near, 1, 1, -1], [0, 0.05, 0.5, 0.95, 1])
    np.testing.assert_allclose([*found.cosine.values()], expected, rtol=0, atol=1e-6)
    assert max(found.cosine.values()) <= 1


def test_nothing_to_compare(url: str, tmp_path: Path) -> None:
    world = world_of(url, tmp_path, link=False)
    found = compare_database(world.path, world.url)
    assert (found.missing, found.compared, found.cosine) == (16, 0, None)
    change(url, "ALTER TABLE detections DROP COLUMN cnn_features")
    with pytest.raises(SourceError, match="has no column 'cnn_features' to compare"):
        compare_database(world.path, world.url)


def test_features_with_nan_that_python_wrote(tmp_path: Path) -> None:
    world = world_of(f"sqlite:///{tmp_path}/ami.db", tmp_path, link=False)
    put(world, d1=[float("nan")] * DIM)
    change(world.url, "UPDATE detections SET cnn_features = 'tensor' WHERE id = 2")
    found = compare_database(world.path, world.url)
    assert {why: some.first for why, some in found.unusable.items()} == {
        "not finite": ["ami:1"],
        "no JSON": ["ami:2"],
    }


def test_another_database_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not from sqlite"):
        compare_database(world.path, f"sqlite:///{tmp_path}/other.db")


def test_the_command(world: World) -> None:
    done = onepass("database", "compare", world.path, world.url)
    assert done.returncode == 0, done.stderr
    assert "11 of 16 detections" in done.stdout
    assert "have features, 3 have none" in done.stdout
    assert "1 have an error in the run" in done.stdout
    assert "1 cannot be used, not numbers: ami:7" in done.stdout
    assert f"2 cannot be compared: 2048 and {DIM} numbers" in done.stdout
    assert "5 compared, cosine: least -1.0000, " in done.stdout
    assert "3 equal: no number differs by more than 0.001" in done.stdout
    assert done.stderr == "warning: 1 are gone from the database: ami:13\n"
    machine = json.loads(onepass("database", "compare", world.path, world.url, "--json").stdout)
    assert machine["compared"] == 5
    assert machine["gone"] == {"count": 1, "first": ["ami:13"]}
    assert machine["other_dims"] == {"2048": 2}
