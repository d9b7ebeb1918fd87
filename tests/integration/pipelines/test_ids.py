"""Runs of two memory cards, and what their detections are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from ami.compare import compare_database
from common.errors import SnapshotError
from index.build.update import add_runs
from index.build.version import build_index
from index.config import IndexConfig
from pipelines.extract import extract
from pipelines.run import Run
from tests.helpers.ami import fill
from tests.helpers.pictures import drawn
from tests.helpers.runs import make_config


def card(folder: Path, first_seed: int) -> Path:
    photos = folder / "DCIM" / "100"
    photos.mkdir(parents=True)
    for number in range(6):
        drawn(first_seed + number, width=48, height=32).save(photos / f"IMG_{number:04d}.jpg")
    return folder


def run_of(source: Path | str, out: Path, **fields: object) -> Run:
    return extract(make_config(source=source, executor="local", **fields), out).run


def ids_of(run: Run) -> list[str]:
    return run.to_arrow(["detection_id"])["detection_id"].to_pylist()


def test_two_cards_share_an_index(tmp_path: Path) -> None:
    runs = [
        run_of(card(tmp_path / name, seed), tmp_path / f"run-{name}")
        for name, seed in (("a", 0), ("b", 50))
    ]
    snapshot = build_index([run.path for run in runs], tmp_path / "both.index", IndexConfig())
    assert snapshot.manifest.rows == 12
    build_index([runs[0].path], tmp_path / "one.index", IndexConfig())
    assert add_runs(tmp_path / "one.index", [runs[1].path]).manifest.rows == 12


def test_another_model_gives_the_same_ids_and_the_same_images_are_refused(tmp_path: Path) -> None:
    photos = card(tmp_path / "a", 0)
    first = run_of(photos, tmp_path / "first")
    assert ids_of(run_of(photos, tmp_path / "second", input_size=48)) == ids_of(first)
    again = run_of(photos, tmp_path / "again")
    with pytest.raises(SnapshotError, match="extract one of them again"):
        build_index([first.path, again.path], tmp_path / "both.index", IndexConfig())


def test_a_migration_keeps_ids_and_hashes(tmp_path: Path) -> None:
    first = run_of(card(tmp_path / "a", 0), tmp_path / "first")
    second = run_of(first.path, tmp_path / "second", from_run=True, input_size=48)
    columns = ["detection_id", "image_hash"]
    assert second.to_arrow(columns).equals(first.to_arrow(columns))
    assert None not in first.to_arrow(["image_hash"])["image_hash"].to_pylist()


def test_sources_that_name_their_rows_alike_share_an_index_by_a_prefix(tmp_path: Path) -> None:
    """Two stations with a database each, of ids from 1 on; both are found in their own again."""
    runs = []
    for name in ("a", "b"):
        url = f"sqlite:///{tmp_path}/{name}.db"
        fill(url, tmp_path / f"photos-{name}")
        runs.append(run_of(url, tmp_path / f"run-{name}", id_prefix=f"{name}/"))
        assert compare_database(runs[-1].path, url).gone.count == 0
    assert not set(ids_of(runs[0])) & set(ids_of(runs[1]))
    assert all(each.startswith("a/ami:") for each in ids_of(runs[0]))
    build_index([run.path for run in runs], tmp_path / "both.index", IndexConfig())
    plain = run_of(f"sqlite:///{tmp_path}/a.db", tmp_path / "plain")
    other = run_of(f"sqlite:///{tmp_path}/b.db", tmp_path / "other")
    with pytest.raises(SnapshotError, match="id_prefix"):
        build_index([plain.path, other.path], tmp_path / "plain.index", IndexConfig())


def test_a_prefix_is_put_before_ids_that_are_made(tmp_path: Path) -> None:
    photos = card(tmp_path / "a", 0)
    plain = ids_of(run_of(photos, tmp_path / "plain"))
    assert ids_of(run_of(photos, tmp_path / "prefixed", id_prefix="x-")) == [
        f"x-{each}" for each in plain
    ]
