"""A run with another model: the same rows, killed and continued, judged, served or not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from common.errors import RunError, SourceError
from index.build.update import add_runs
from index.build.version import build_index
from index.build.versions import promote, rollback
from index.search.snapshot import Snapshot
from index.storage.layout import current_version, list_versions, read_manifest
from migration.migrate import extract_again
from migration.report import MigrationReport
from pipelines.extract import extract
from pipelines.model_info import ModelRequest
from pipelines.run import Run
from pipelines.sources.earlier_run import read_run
from tests.helpers.commands import here
from tests.helpers.indexes import embeddings, make_run, tree
from tests.helpers.pictures import photo_folder
from tests.helpers.refusals import only_error
from tests.helpers.runs import make_config
from tests.helpers.videos import broken_videos, write_video
from tracks.link import link_run

DARKER = ModelRequest(spec="tiny", mean=(0.4,) * 3)  # another fingerprint, much the same space
PHOTOS = 20
GONE = "night1/0007.jpg"
PLAN = ["row_id", "detection_id", "image", "x1", "y1", "x2", "y2"]
PLAN += ["sequence", "timestamp", "frame", "note", "parts"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Forty rows, two a photo, with columns of the user's; one photo is away for the old run."""
    folder = photo_folder(tmp_path_factory.mktemp("photos"), PHOTOS, width=160, height=120)
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))
    names = [name for name in names for _ in range(2)]
    box = [(10.0, 10.0, 70.0, 60.0) if row % 2 else (60.0, 40.0, 150.0, 110.0) for row in range(40)]
    table = pa.table(
        {
            "image": names,
            **dict(zip(("x1", "y1", "x2", "y2"), zip(*box, strict=True), strict=True)),
            "detection_id": [f"mine-{row}" for row in range(40)],
            "note": [None if row == 3 else f"n{row}" for row in range(40)],
            "parts": [[row, row + 1] for row in range(40)],
        }
    )
    pa.parquet.write_table(table, folder / "rows.parquet")
    runs = tmp_path_factory.mktemp("runs")
    away = runs / "away.jpg"
    (folder / GONE).rename(away)
    old = extract(make_config(source=folder / "rows.parquet"), runs / "old").run
    away.rename(folder / GONE)
    return SimpleNamespace(folder=folder, old=old, runs=runs)


def migrate(old: Run, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    exact = ("--precision", "fp32", "--engine", "eager")
    return here("migrate", old.path, "--out", out, *exact, *more)


DARKER_OPTIONS = ("--model", "tiny", "--mean", "0.4,0.4,0.4")


def test_rows_stay_and_answers_are_the_new_models(world: SimpleNamespace, tmp_path: Path) -> None:
    new = extract_again(make_config(DARKER, source=world.old.path), tmp_path / "new").run
    assert new.verify() == 40
    kept, before = new.to_arrow(PLAN), world.old.to_arrow(PLAN)
    assert kept.equals(before)
    assert kept.schema.equals(before.schema)
    assert (world.old.manifest.rows.failed, new.manifest.rows.failed) == (2, 0)  # tried again
    assert new.manifest.root == world.old.manifest.root
    assert new.manifest.source == str(world.old.path)
    direct = extract(
        make_config(DARKER, source=world.folder / "rows.parquet"), tmp_path / "direct"
    ).run
    np.testing.assert_array_equal(new.embeddings(), direct.embeddings())
    assert new.to_arrow(["label"]).equals(direct.to_arrow(["label"]))
    session = new.manifest.session
    assert session is not None
    assert (session.rows, session.gpus) == (40, 0)
    again = extract_again(make_config(DARKER, source=world.old.path), tmp_path / "new")
    assert again.already_finished


def test_passed_promoted_and_rolled_back(world: SimpleNamespace, tmp_path: Path) -> None:
    old, out, index = tmp_path / "old", tmp_path / "new", tmp_path / "index"
    shutil.copytree(world.old.path, old)  # it will get tracks
    link_run(old)
    build_index([old], index)
    done = migrate(Run.open(old), out, *DARKER_OPTIONS, "--index", index)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert "verdict: passed" in printed
    assert f"{index} serves v0002 now; back: onepass index rollback {index}" in printed
    assert current_version(index) == "v0002"
    served = read_manifest(index)
    assert served.fingerprint == Run.open(out).manifest.fingerprint
    assert served.rows == 40  # the two that had failed are there
    report = MigrationReport.model_validate_json((out / "migration/report.json").read_bytes())
    assert (report.counts.newly_fine, report.counts.newly_failed) == (2, 0)
    assert report.labels.by == "name"
    assert report.labels.classes_shared == 10
    old_labels, new_labels = (
        run.to_arrow(["label"])["label"].to_pylist() for run in (Run.open(old), Run.open(out))
    )
    pairs = [(a, b) for a, b in zip(old_labels, new_labels, strict=True) if a is not None]
    assert report.labels.agreement == np.mean([a == b for a, b in pairs])
    assert report.links.reason is None
    assert (out / "tracks" / "manifest.json").is_file()  # there were some to serve before
    assert "Migration: tiny to tiny" in (out / "migration" / "report.html").read_text()
    assert rollback(index).manifest.version == "v0001"
    written = [file.stat().st_mtime_ns for file in Run.open(out).files()]
    stamp = json.loads((out / "migration" / "report.json").read_text())
    (out / "migration" / ".report.html.4711").touch()  # a session that was killed
    done = migrate(Run.open(old), out, *DARKER_OPTIONS, "--index", index, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["index"] == {"index": str(index), "version": "v0002", "promoted": True}
    assert [file.stat().st_mtime_ns for file in Run.open(out).files()] == written
    assert {**document, "created": ""} == {**stamp, "created": "", "index": document["index"]}
    assert list_versions(index) == ["v0001", "v0002"]  # not built again
    names = {entry.name for entry in (out / "migration").iterdir()}
    assert names == {"report.json", "report.html"}


def test_a_limit_that_is_missed(world: SimpleNamespace, tmp_path: Path) -> None:
    out, index = tmp_path / "new", tmp_path / "index"
    build_index([world.old.path], index)
    away = tmp_path / "away.jpg"
    (world.folder / "night0/0004.jpg").rename(away)
    try:
        done = migrate(world.old, out, *DARKER_OPTIONS, "--index", index, "--min-overlap", "1")
    finally:
        away.rename(world.folder / "night0/0004.jpg")
    assert done.returncode == 1
    missed = [line for line in done.stderr.splitlines() if line.startswith("missed: ")]
    assert missed[0] == "missed: new failures: 2, --max-new-failures wants at most 0"
    assert missed[1].startswith("missed: neighbour overlap: 0.")
    assert len(missed) == 2
    assert f"promote {index} v0002" in done.stdout
    assert current_version(index) == "v0001"
    assert promote(index, "v0002").manifest.rows == 38  # by a person who knows better


def test_another_dimension_says_what_cannot_be_compared(
    world: SimpleNamespace, tmp_path: Path
) -> None:
    """MobileNet to ResNet-50, both untrained: what counts here is what cannot be compared."""
    small = ("--input-size", "64", "--random-weights", "--precision", "fp32", "--engine", "eager")
    one, two = tmp_path / "mobilenet", tmp_path / "resnet"
    source = ("extract", world.folder / "rows.parquet", "--out", one)
    assert here(*source, "--model", "torchvision:mobilenet_v3_small", *small).returncode == 0
    index = tmp_path / "index"
    build_index([one], index)
    model = ("--model", "torchvision:resnet50", *small)
    limits = ("--min-overlap", "0", "--max-changed-links", "1")
    done = here("migrate", one, "--out", two, *model, *limits, "--index", index, "--json")
    report = json.loads(done.stdout)
    assert report["drift"]["reason"] == "cannot be compared: 1024 and 2048 numbers"
    reason = "classes of torchvision:mobilenet_v3_small mean nothing, its weights are random"
    assert report["labels"]["reason"] == reason
    assert report["neighbours"]["queries"] == 40
    assert report["links"]["reason"] is None
    assert Snapshot.open(index).manifest.dim == 2048
    assert rollback(index).manifest.dim == 1024
    three = tmp_path / "tiny"
    printed = migrate(Run.open(two), three, "--model", "tiny", *limits).stdout
    assert "not comparable label agreement: classes of torchvision:resnet50 mean nothing" in printed
    assert "drift        cannot be compared: 2048 and 32 numbers" in printed


def test_frames_of_videos(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    write_video(folder / "train/bees/one.mp4", 20, width=96)
    broken_videos(folder / "train" / "flies")
    config = make_config(source=folder, kind="video", frames=8)
    old = extract(config, tmp_path / "old").run
    new = extract_again(make_config(DARKER, source=old.path), tmp_path / "new").run
    columns = ["row_id", "detection_id", "image", "sequence", "frame", "split", "category", "error"]
    assert new.to_arrow(columns).equals(
        old.to_arrow(columns)
    )  # errors of planning are kept word by word
    assert new.manifest.model.preprocess.input_size == (256, 256)
    assert new.manifest.model.preprocess.resize == "squash"
    assert (new.manifest.config.kind, new.manifest.config.frames) == ("video", 8)
    assert new.manifest.config.from_run
    third = extract_again(make_config(source=new.path), tmp_path / "third").run
    np.testing.assert_array_equal(third.embeddings(), old.embeddings())


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("same", "is inside the run that is migrated"),
        ("inside", "is inside the run that is migrated"),
        ("no run", "this folder is not a run"),
        ("index of another", "give the index that was built from this run"),
        ("index of two", "serves rows of 2 runs, and a migration replaces one"),
        ("no index", "holds no index (no CURRENT file)"),
        ("model", "--model resnet50: unknown model"),
        ("images", "which is not there; bring that folder back"),
    ],
)
def test_bad_input(world: SimpleNamespace, tmp_path: Path, case: str, says: str) -> None:
    old = tmp_path / "old"
    shutil.copytree(world.old.path, old)
    other = make_run(tmp_path / "other", embeddings(9, dim=32))
    out, model, more = tmp_path / "new", "tiny", ()
    if case == "same":
        out = old
    elif case == "inside":
        out = old / "new"
    elif case == "no run":
        (old / "manifest.json").unlink()
        (old / "request.json").unlink()
    elif case == "model":
        model = "resnet50"
    elif case == "images":
        manifest = json.loads((old / "manifest.json").read_text())
        del manifest["sha256"]
        (old / "manifest.json").write_text(json.dumps(manifest | {"root": str(tmp_path / "away")}))
    else:
        more = ("--index", tmp_path / "index")
        (tmp_path / "index").mkdir()
        if case != "no index":
            build_index([other], tmp_path / "index")
    if case == "index of two":
        facts = world.old.manifest.model
        more_rows = make_run(tmp_path / "more", embeddings(9, dim=32), facts=facts)
        shutil.rmtree(tmp_path / "index")
        build_index([old], tmp_path / "index")
        add_runs(tmp_path / "index", [more_rows])
    before = tree(tmp_path)
    done = here("migrate", old, "--model", model, "--out", out, *more)
    assert says in only_error(done.returncode, done.stdout, done.stderr)
    assert tree(tmp_path) == before


def test_a_run_whose_images_went_is_told_from_one_that_never_was(
    world: SimpleNamespace, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        read_run(tmp_path / "none")
    shutil.copytree(world.old.path, tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text())
    del manifest["sha256"]
    moved = json.dumps(manifest | {"root": str(tmp_path / "away")})
    (tmp_path / "old" / "manifest.json").write_text(moved)
    with pytest.raises(SourceError, match="its images start from"):
        read_run(tmp_path / "old")
