"""``extract`` with ``update``: only what is new or changed, and then as if it had always been there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from common.errors import RunError, VerifyError
from common.storage import to_path
from pipelines.session import UpdateSummary
from tests.helpers.commands import here
from tests.helpers.s3 import Store
from tests.helpers.updates import (
    by_id,
    check_whole,
    extracted,
    make_photos,
    near,
    photo,
    without_ids,
)
from tests.helpers.videos import write_video
from tests.integration.pipelines.execution.world import everything, same
from tracks.link import link_run
from tracks.store import read_tracks


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


def test_a_folder_that_grew_is_what_a_new_run_makes_of_it(photos: Path, tmp_path: Path) -> None:
    first = extracted(photos, tmp_path / "run", hdf5=True)
    before = everything(first.run)
    for number in range(4):
        photo(photos / "night0" / f"{1000 + number}.jpg", 100 + number)
    with pytest.raises(RunError, match="update=True"):
        extracted(photos, tmp_path / "run", hdf5=True)
    outcome = extracted(photos, tmp_path / "run", update=True, hdf5=True)
    assert outcome.update is not None
    assert (len(outcome.update.new), outcome.update.answered) == (4, 4)
    assert outcome.run.manifest.session.rows == 4  # type: ignore[union-attr]
    assert outcome.update == UpdateSummary(new=outcome.update.new, answered=4)
    assert same(everything(outcome.run).slice(0, 20), before)
    new = extracted(photos, tmp_path / "new", hdf5=True)
    assert near(by_id(outcome.run), by_id(new.run))
    check_whole(outcome.run)
    assert extracted(photos, tmp_path / "run", hdf5=True).already_finished
    again = extracted(photos, tmp_path / "run", update=True, hdf5=True)
    assert again.already_finished
    assert again.update is not None
    assert again.update.answered == 0
    assert again.run.manifest == outcome.run.manifest


def test_a_changed_image_keeps_its_id_and_place(photos: Path, tmp_path: Path) -> None:
    """Its size and time say nothing: they are those of the image that was there."""
    run = extracted(photos, tmp_path / "run", hdf5=True).run
    ids = run.to_arrow(["row_id", "detection_id", "image"])
    old = run.embeddings()
    file = photos / "night1" / "0050.jpg"
    times, data = file.stat(), bytearray(photo(tmp_path / "other.jpg", 77).read_bytes())
    size = times.st_size
    file.write_bytes(data[:size] + bytes(max(0, size - len(data))))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    touched = photos / "night0" / "0000.jpg"
    os.utime(touched, (1, 1))
    outcome = extracted(photos, tmp_path / "run", update=True, hdf5=True)
    assert outcome.update is not None
    assert outcome.update.changed == ("night1/0050.jpg",)
    assert outcome.update.answered == 1
    assert outcome.run.to_arrow(["row_id", "detection_id", "image"]).equals(ids)
    moved = (outcome.run.embeddings() != old).any(1)
    assert ids["image"].filter(pa.array(moved)).to_pylist() == ["night1/0050.jpg"]
    assert near(without_ids(outcome.run), without_ids(extracted(photos, tmp_path / "new").run))
    check_whole(outcome.run)


def test_what_vanished_is_told_and_kept(photos: Path, tmp_path: Path) -> None:
    run = extracted(photos, tmp_path / "run").run
    before = everything(run)
    gone = photos / "night0" / "0020.jpg"
    kept = gone.read_bytes()
    gone.unlink()
    outcome = extracted(photos, tmp_path / "run", update=True)
    assert outcome.update is not None
    assert outcome.update.vanished == ("night0/0020.jpg",)
    assert outcome.run.manifest.vanished == 1
    assert same(everything(outcome.run), before)
    photo(photos / "night0" / "0015.jpg", 300)
    outcome = extracted(photos, tmp_path / "run", update=True)
    frames = outcome.run.to_arrow(["sequence", "frame"]).to_pylist()
    assert len({(row["sequence"], row["frame"]) for row in frames}) == 21
    gone.write_bytes(kept)
    outcome = extracted(photos, tmp_path / "run", update=True)
    assert outcome.update is not None
    assert (outcome.update.answered, outcome.run.manifest.vanished) == (0, 0)
    assert near(by_id(outcome.run), by_id(extracted(photos, tmp_path / "new").run))


def test_images_between_others_renumber_frames_and_it_is_told(photos: Path, tmp_path: Path) -> None:
    run = extracted(photos, tmp_path / "run").run
    old = run.to_arrow(["detection_id", "frame"])
    photo(photos / "night0" / "0095.jpg", 200)
    outcome = extracted(photos, tmp_path / "run", update=True)
    frames = outcome.run.to_arrow(["detection_id", "frame"])
    other = int((old["frame"].to_numpy() != frames["frame"].to_numpy()[:20]).sum())
    assert outcome.update is not None
    assert outcome.update.renumbered == other == 5
    assert outcome.update.answered == 1
    assert frames["detection_id"][:20].equals(old["detection_id"])
    assert near(by_id(outcome.run), by_id(extracted(photos, tmp_path / "new").run))
    check_whole(outcome.run)


def manifest_of(photos: Path, boxes: dict[str, list[tuple[int, ...]]], note: str = "a") -> Path:
    lines = ["image,x1,y1,x2,y2,note"]
    lines += [f"{name},{','.join(map(str, box))},{note}" for name in boxes for box in boxes[name]]
    file = photos / "boxes.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_boxes_of_a_manifest(photos: Path, tmp_path: Path) -> None:
    names = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg"))
    boxes = {name: [(1, 2, 30, 40), (1, 2, 30, 40), (10, 10, 50, 40)] for name in names}
    extracted(manifest_of(photos, boxes), tmp_path / "run")
    boxes[names[3]].append((5, 5, 25, 25))
    boxes[names[4]][2] = (11, 10, 50, 40)
    (photos / names[6]).unlink()  # its rows are still asked for
    outcome = extracted(manifest_of(photos, boxes, "b"), tmp_path / "run", update=True)
    assert outcome.update is not None
    assert outcome.update.new == (names[3], names[4])
    assert outcome.update.vanished == (names[4], names[6])
    assert outcome.run.manifest.rows.failed == 0
    notes = outcome.run.to_arrow(["note"])["note"].to_pylist()
    assert (notes.count("b"), notes.count("a")) == (58, 4)
    new = by_id(extracted(photos / "boxes.csv", tmp_path / "new").run)
    ids = new.filter(pa.compute.is_null(new["error"]))["detection_id"]
    updated = by_id(outcome.run)
    assert near(
        updated.filter(pa.compute.is_in(updated["detection_id"], ids.combine_chunks())),
        new.filter(pa.compute.is_null(new["error"])),
    )
    check_whole(outcome.run)


def test_an_image_that_could_not_be_read_is_tried_again(photos: Path, tmp_path: Path) -> None:
    broken = photos / "night0" / "0040.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    run = extracted(photos, tmp_path / "run").run
    assert run.manifest.rows.failed == 1
    again = extracted(photos, tmp_path / "run", update=True)
    assert again.already_finished
    broken.write_bytes(whole)
    outcome = extracted(photos, tmp_path / "run", update=True)
    assert outcome.run.manifest.rows.failed == 0
    assert outcome.update is not None
    assert outcome.update.changed == ("night0/0040.jpg",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": False}, "logits"),
        ({"model": "timm:test_resnet", "random_weights": True}, "model"),
    ],
)
def test_other_options_are_refused(
    photos: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    extracted(photos, tmp_path / "run")
    with pytest.raises(RunError, match=message):
        extracted(photos, tmp_path / "run", update=True, **change)


def test_another_source_is_refused(photos: Path, tmp_path: Path) -> None:
    extracted(photos, tmp_path / "run")
    with pytest.raises(RunError, match="source"):
        extracted(photos / "night0", tmp_path / "run", update=True)
    shutil.rmtree(photos)
    photo(photos / "other" / "a.jpg", 5)
    with pytest.raises(RunError, match="none of its"):
        extracted(photos, tmp_path / "run", update=True)


def test_other_columns_are_refused(photos: Path, tmp_path: Path) -> None:
    (photos / "rows.csv").write_text("image\nnight0/0000.jpg\n")
    extracted(photos / "rows.csv", tmp_path / "run")
    (photos / "rows.csv").write_text("image,note\nnight0/0000.jpg,a\n")
    with pytest.raises(RunError, match="note"):
        extracted(photos / "rows.csv", tmp_path / "run", update=True)


def test_a_damaged_file_is_not_carried_over(photos: Path, tmp_path: Path) -> None:
    run = extracted(photos, tmp_path / "run").run
    file = run.files()[0]
    table = pa.parquet.read_table(file)
    pa.parquet.write_table(table, file, compression="none")
    photo(photos / "night1" / "1000.jpg", 100)
    with pytest.raises(VerifyError):
        extracted(photos, tmp_path / "run", update=True)


def test_an_unfinished_run_whose_folder_grew_is_finished_first(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = extracted(photos, out).run
    (out / "manifest.json").unlink()
    run.files()[0].unlink()
    photo(photos / "night1" / "2000.jpg", 102)
    with pytest.raises(RunError, match="update=True"):
        extracted(photos, out)
    outcome = extracted(photos, out, update=True)
    assert outcome.update is not None
    assert outcome.update.new == ("night1/2000.jpg",)
    assert near(by_id(outcome.run), by_id(extracted(photos, tmp_path / "new").run))


def test_tracks_of_before_are_noticed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    extracted(photos, out)
    link_run(out, executor="local")
    assert read_tracks(out).num_rows == 20
    photo(photos / "night1" / "2000.jpg", 102)
    extracted(photos, out, update=True)
    with pytest.raises(RunError, match="onepass link"):
        read_tracks(out)
    link_run(out, executor="local")
    assert read_tracks(out).num_rows == 21


def test_frames_of_videos(tmp_path: Path) -> None:
    video = {"kind": "video", "frames": 4, "logits": True}
    for name, count in (("train/a/1.mp4", 20), ("train/b/2.mp4", 30)):
        write_video(tmp_path / "videos" / name, count, width=96)
    out = tmp_path / "run"
    extracted(tmp_path / "videos", out, **video)
    write_video(tmp_path / "videos" / "train/a/0.mp4", 25, width=96)
    write_video(tmp_path / "videos" / "train/b/2.mp4", 30, width=64)
    outcome = extracted(tmp_path / "videos", out, update=True, **video)
    assert outcome.update is not None
    assert {name.partition("#")[0] for name in outcome.update.new} == {"train/a/0.mp4"}
    assert {name.partition("#")[0] for name in outcome.update.changed} == {"train/b/2.mp4"}
    assert outcome.update.answered == 8
    new = extracted(tmp_path / "videos", tmp_path / "new", **video).run
    assert near(without_ids(outcome.run), without_ids(new))


def test_the_command_says_what_it_did(photos: Path, tmp_path: Path) -> None:
    command = ("extract", photos, "--model", "tiny", "--out", tmp_path / "run", "--update")
    assert here(*command, "--executor", "local").returncode == 0
    photo(photos / "night1" / "2000.jpg", 102)
    (photos / "night1" / "0030.jpg").unlink()
    ended = here(*command, "--executor", "local")
    assert ended.returncode == 0
    assert "night1/2000.jpg" in ended.stdout
    assert "night1/0030.jpg" in ended.stderr
    told = json.loads(here(*command, "--executor", "local", "--json").stdout)
    assert told["already_finished"] is True
    assert told["update"]["vanished"] == ["night1/0030.jpg"]


def test_a_run_and_images_in_an_object_store(photos: Path, tmp_path: Path, s3: Store) -> None:
    for file in photos.rglob("*.jpg"):
        to_path(f"s3://bucket/{file.relative_to(tmp_path)}").write_bytes(file.read_bytes())
    source, out = to_path("s3://bucket/photos"), to_path("s3://bucket/run")
    extracted(str(source), out, hdf5=True)
    added = photo(tmp_path / "more.jpg", 55).read_bytes()
    (source / "night0" / "2000.jpg").write_bytes(added)
    (source / "night1" / "0010.jpg").write_bytes(added)
    (source / "night1" / "0030.jpg").unlink()
    outcome = extracted(str(source), out, update=True, hdf5=True)
    assert outcome.update == UpdateSummary(
        new=("night0/2000.jpg",),
        changed=("night1/0010.jpg",),
        vanished=("night1/0030.jpg",),
        answered=2,
    )
    stored = {key.removeprefix("run/") for key in s3.stored("run")}
    assert stored == {*outcome.run.manifest.files, "manifest.json", "request.json", "events.jsonl"}


def test_update_of_nothing_is_a_new_run(photos: Path, tmp_path: Path) -> None:
    assert len(extracted(photos, tmp_path / "run", update=True).run) == 20
