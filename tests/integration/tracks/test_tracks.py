"""From a finished run to its tracks on disk, and back."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.executors import ExecutorName
from common.errors import FolderError, InputError, RunError, VerifyError
from common.json_models import sha256_file
from common.lock import lock_folder
from pipelines.detections import BOX
from pipelines.run import Run
from tests.helpers.runs import hash_again, write_run
from tracks import link as tracks_module
from tracks.association.options import PRESETS, LinkOptions
from tracks.geometry import upright_size
from tracks.link import link_run
from tracks.plan import EmbeddingReader
from tracks.store import SCHEMA, LinkSummary, TracksManifest, read_tracks

CAMERAS = ("north", "south")
FRAMES, OBJECTS = 6, 3


def scene(*, timestamps: bool = True) -> tuple[dict[str, list[Any]], np.ndarray]:
    """Two cameras with the same three still objects, so that only the sequence parts them."""
    plan: dict[str, list[Any]] = {
        name: [] for name in ("image", "x1", "y1", "x2", "y2", "sequence", "frame", "timestamp")
    }
    looks = []
    random = np.random.default_rng(0)
    base = random.normal(size=(OBJECTS, 8))
    for frame in range(FRAMES):
        for camera in CAMERAS:
            for thing in range(OBJECTS):
                plan["image"].append(f"{camera}/{frame}.jpg")
                corner = 100.0 * thing
                for side, value in zip(
                    ("x1", "y1", "x2", "y2"),
                    (corner, corner, corner + 40, corner + 40),
                    strict=True,
                ):
                    plan[side].append(value)
                plan["sequence"].append(camera)
                plan["frame"].append(frame)
                plan["timestamp"].append(
                    datetime(2024, 6, 1) + timedelta(minutes=frame) if timestamps else None
                )
                looks.append(base[thing] + random.normal(scale=0.05, size=8))
    return plan, np.array(looks)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    plan, looks = scene()
    return write_run(tmp_path / "run", plan, looks, files=5).path


@pytest.mark.parametrize("preset", ["default", "online"])
def test_every_object_is_one_track_of_one_camera(run: Path, preset: str) -> None:
    summary = link_run(run, options=PRESETS[preset])
    assert replace(summary, notes=()) == LinkSummary(2, 36, linked=30, tracks=6, left_out=0)
    for camera, note in zip(CAMERAS, summary.notes, strict=True):
        assert f"sequence '{camera}': the size of 6 images is not known" in note
    table = read_tracks(run)
    assert table.schema.equals(SCHEMA)
    learned = TracksManifest.read(run / "tracks").learned
    assert list(learned) == (list(CAMERAS) if preset == "default" else [])
    for shown in learned.values():  # three still objects, 100 pixels apart in boxes of 40
        assert shown.move < 0.1 < 1 < shown.apart
        assert shown.unlike < 0.2 < 0.7 < shown.alike
    rows = table.to_pylist()
    assert [(row["sequence"], row["frame"]) for row in rows] == sorted(
        (row["sequence"], row["frame"]) for row in rows
    )
    assert {row["track_id"] for row in rows} == {
        f"{camera}:{number:05d}" for camera in CAMERAS for number in range(OBJECTS)
    }
    by_id = {row["detection_id"]: row for row in rows}
    assert len(by_id) == 36
    for row in rows:
        start = row["previous_detection_id"] is None
        costs = [row[name] for name in SCHEMA.names if name.startswith("cost")]
        assert [cost is None for cost in [*costs, row["margin"]]] == [start] * 6
        assert start == (row["position"] == 0)
        if not start:
            before = by_id[row["previous_detection_id"]]
            assert (before["track_id"], before["position"] + 1) == (
                row["track_id"],
                row["position"],
            )
            weighted = np.dot(costs[1:], PRESETS[preset].weights)
            assert (
                costs[0] < 0
                if preset == "default"
                else costs[0] == pytest.approx(weighted, abs=1e-6)
            )


@pytest.mark.parametrize(("group_rows", "window_bytes"), [(1, 1), (20, 100), (1000, 10**6)])
def test_groups_windows_and_files_do_not_change_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int, window_bytes: int
) -> None:
    plan, looks = scene()
    expected = None
    for files in (1, 7):
        run = write_run(tmp_path / f"{files}", plan, looks, files=files).path
        link_run(run)
        expected = expected or read_tracks(run)
        with monkeypatch.context() as small:
            small.setattr(tracks_module, "GROUP_ROWS", group_rows)
            small.setattr(
                EmbeddingReader.__init__, "__kwdefaults__", {"window_bytes": window_bytes}
            )
            link_run(run)
        assert len(list((run / "tracks").glob("*.parquet"))) == (2 if group_rows < 36 else 1)
        assert read_tracks(run).equals(expected)


def test_linking_again_replaces_and_is_the_same(run: Path) -> None:
    seen: list[tuple[int, int]] = []
    link_run(run, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(36, 36)]
    first = sha256_file(run / "tracks" / "part-00000.parquet")
    options = LinkOptions(max_cost=1e-9, max_gap_seconds=90.0)
    summary = link_run(run, options=options)
    assert len(read_tracks(run)["track_id"].unique()) == 36
    manifest = TracksManifest.read(run / "tracks")
    assert (manifest.options, manifest.counts) == (options, summary)
    link_run(run)
    assert sha256_file(run / "tracks" / "part-00000.parquet") == first
    manifest = TracksManifest.read(run / "tracks")
    assert manifest.files == {"part-00000.parquet": first}
    assert names_in(run) == {"detections", "manifest.json", "tracks"}


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_failed_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    plan, looks = scene()
    # Object 0 of camera "north" fails in frames 2 and 3: a gap, not an end.
    failed = {2 * 6: "truncated", 3 * 6: "truncated"}
    run = write_run(tmp_path / "run", plan, looks, errors=failed, files=5).path
    summary = link_run(run)
    assert (summary.detections, summary.left_out, summary.tracks) == (34, 2, 6)
    assert read_tracks(run).num_rows == 34
    assert link_run(run, options=LinkOptions(max_gap_frames=1)).tracks == 7


def test_all_rows_failed(tmp_path: Path) -> None:
    plan, looks, errors = {"image": ["a.jpg"]}, np.ones((1, 8)), {0: "missing"}
    run = write_run(tmp_path / "run", plan, looks, errors=errors).path
    summary = link_run(run)
    assert (summary.sequences, summary.detections, summary.left_out) == (0, 0, 1)
    assert read_tracks(run).num_rows == 0


def test_whole_images_are_linked_by_their_looks(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    looks = np.array([[1.0, 0, 0, 0], [1.0, 0.1, 0, 0], [-1.0, 0, 0, 0]])
    plan = {"image": ["a.png", "b.png", "c.png"]}
    run = write_run(tmp_path / "run", plan, looks, root=tmp_path).path
    link_run(run, options=LinkOptions(max_cost=0.5))
    rows = read_tracks(run).to_pylist()
    assert [row["track_id"] for row in rows] == [".:00000", ".:00000", ".:00001"]
    assert [rows[1][f"cost_{term}"] for term in ("iou", "area", "distance")] == [0, 0, 0]


def test_distance_is_measured_in_diagonals_of_the_upright_image(tmp_path: Path) -> None:
    boxes = [[0.0, 30.0], [0.0, 40.0], [10.0, 40.0], [10.0, 50.0]]
    plan = {"image": ["a.jpg", "b.jpg"], **dict(zip(BOX, boxes, strict=True))}
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in plan["image"]:
        Image.new("RGB", (400, 300)).save(tmp_path / name, exif=exif)
    assert upright_size(tmp_path / "a.jpg") == (300, 400)
    options = LinkOptions(max_cost=10.0)
    run = write_run(tmp_path / "run", plan, np.ones((2, 4)), root=tmp_path, files=1).path
    link_run(run, options=options)
    assert read_tracks(run)["cost_distance"][1].as_py() == pytest.approx(50 / 500)
    # Without the files the extent of the boxes stands in: 40 by 50 pixels.
    for name in plan["image"]:
        (tmp_path / name).unlink()
    link_run(run, options=options)
    assert read_tracks(run)["cost_distance"][1].as_py() == pytest.approx(50 / np.hypot(40, 50))


def test_a_failure_leaves_the_old_tracks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link_run(run)
    before = sha256_file(run / "tracks" / "part-00000.parquet")
    monkeypatch.setattr(tracks_module, "check_complete", _fail)
    with pytest.raises(VerifyError, match="on purpose"):
        link_run(run, options=LinkOptions(max_cost=1e-9))
    assert sha256_file(run / "tracks" / "part-00000.parquet") == before
    assert names_in(run) == {"detections", "manifest.json", "tracks"}


def _fail(*_: object) -> None:
    raise VerifyError("on purpose")


def test_two_at_once(run: Path) -> None:
    with lock_folder(run / ".tracks.linking", "link"), pytest.raises(FolderError):
        link_run(run)
    assert link_run(run).tracks == 6


def test_what_a_killed_command_left_is_taken_over(run: Path) -> None:
    link_run(run)
    expected = read_tracks(run)
    # Killed between the two renames: the new ones stand ready, the old ones are out of the way.
    (run / ".tracks.linking" / "new").mkdir(parents=True)
    (run / "tracks").rename(run / ".tracks.linking" / "old")
    link_run(run)
    assert read_tracks(run).equals(expected)
    assert names_in(run) == {"detections", "manifest.json", "tracks"}
    link_run(run, out=run.parent / "far" / "away" / "tracks")  # where no folder is yet
    assert read_tracks(run.parent / "far" / "away").equals(expected)


def test_what_is_not_tracks_is_not_replaced(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="mine"):
        link_run(run, out=mine)
    assert (mine / "thesis.txt").is_file()


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_an_embedding_that_is_none_is_named(tmp_path: Path, value: float) -> None:
    plan, looks = scene()
    looks[7] = value
    run = write_run(tmp_path / "run", plan, looks).path
    with pytest.raises(InputError, match=f"1 of 36 .*'{_id_of(run, 7)}'"):
        link_run(run)
    assert not (run / "tracks").exists()


def _id_of(run: Path, row: int) -> str:
    return str(Run.open(run).to_arrow(["detection_id"])["detection_id"][row].as_py())


def test_rows_without_embeddings(run: Path) -> None:
    first, *others = sorted((run / "detections").iterdir())
    table = pq.read_table(first)
    column = table["embedding"].combine_chunks()
    kept = pa.array([i != 1 for i in range(len(column))])
    holes = pc.if_else(kept, column, pa.scalar(None, column.type))
    at = table.column_names.index("embedding")
    # As a list: Arrow before 26 cannot read null fixed-size lists back.
    as_list = holes.cast(pa.list_(pa.float32()))
    pq.write_table(table.set_column(at, "embedding", as_list), first)
    hash_again(run)
    with pytest.raises(RunError, match="1 detections of "):
        link_run(run)
    for file in (first, *others):
        pq.write_table(pq.read_table(file).drop_columns(["embedding"]), file)
    hash_again(run)
    with pytest.raises(RunError, match="keeps no embeddings"):
        link_run(run)


def test_weak_detections_are_rows_without_a_track(tmp_path: Path) -> None:
    plan, looks = scene()
    # Weak: all of object 0 in "north", but in its first frame.
    plan["detector_score"] = [0.9] * 36
    for frame in range(1, FRAMES):
        plan["detector_score"][frame * 6] = 0.3
    plan["detector_score"][0 + 2] = 0.3  # object 2 starts one frame later than the others
    run = write_run(tmp_path / "run", plan, looks).path
    options = LinkOptions(strong_score=0.5)
    summary = link_run(run, options=options, score_column="detector_score")
    assert (summary.tracks, summary.weak, summary.linked) == (6, 1, 29)
    rows = read_tracks(run).to_pylist()
    lone = [row for row in rows if row["track_id"] is None]
    assert [row["detection_id"] for row in lone] == [_id_of(run, 2)]
    assert {lone[0][name] for name in ("position", "previous_detection_id", "cost", "margin")} == {
        None
    }
    manifest = TracksManifest.read(run / "tracks")
    assert manifest.score_column == "detector_score"
    for column in ("confidence", "label", None):  # none of that name, no numbers, not given
        with pytest.raises(InputError, match=column or "score_column"):
            link_run(run, options=options, score_column=column)


def test_time_that_runs_backwards_or_is_missing(tmp_path: Path) -> None:
    plan, looks = scene()
    plan["timestamp"].reverse()
    run = write_run(tmp_path / "run", plan, looks).path
    summary = link_run(run)
    assert sum("sequence 'north': time runs backwards 5 times" in one for one in summary.notes) == 1
    assert summary.tracks == 6
    plan, looks = scene(timestamps=False)
    bare = write_run(tmp_path / "bare", plan, looks).path
    for untimed, says in ((run, "backwards"), (bare, "18 of 18")):
        with pytest.raises(InputError, match=f"sequence 'north': .*max_gap_seconds.* {says}"):
            link_run(untimed, options=LinkOptions(max_gap_seconds=60.0))
    assert not (bare / "tracks").exists()


def test_two_cameras_in_one_folder_are_suspected(tmp_path: Path) -> None:
    for number, side in enumerate([40, 40, 60, 60]):
        Image.new("RGB", (side, 30)).save(tmp_path / f"{number}.png")
    plan: dict[str, list[Any]] = {
        "image": [f"{number}.png" for number in range(4)],
        "timestamp": [datetime(2024, 6, 1, 0, minute) for minute in (0, 1, 0, 1)],
    }
    run = write_run(tmp_path / "run", plan, np.eye(4), root=tmp_path).path
    notes = link_run(run).notes
    assert len(notes) == 2
    assert "4 of 4 frames have the time of another" in notes[0]
    assert "2 sizes" in notes[1]
    plan["sequence"] = ["a", "a", "b", "b"]
    apart = write_run(tmp_path / "apart", plan, np.eye(4), root=tmp_path).path
    assert link_run(apart).notes == ()


def test_equal_times_are_linked_in_the_order_of_names(tmp_path: Path) -> None:
    plan: dict[str, list[Any]] = {
        "image": ["c.png", "a.png", "b.png"],
        "timestamp": [datetime(2024, 6, 1)] * 3,
    }
    run = write_run(tmp_path / "run", plan, np.ones((3, 4)), root=tmp_path).path
    link_run(run, options=LinkOptions(max_gap_seconds=1.0))
    before = {
        row["detection_id"]: row["previous_detection_id"] for row in read_tracks(run).to_pylist()
    }
    first, second, third = (_id_of(run, row) for row in (1, 2, 0))
    assert before == {first: None, second: first, third: second}


@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_in_other_processes_the_tracks_are_the_same(
    run: Path,
    executor: ExecutorName,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    here = link_run(run)
    expected = read_tracks(run)
    monkeypatch.setattr(tracks_module, "GROUP_ROWS", 1)
    monkeypatch.setattr(tracks_module, "PROCESSES_FROM_BYTES", 0)
    if executor == "ray":
        request.getfixturevalue("ray_session")
    there = link_run(run, executor=executor)
    assert there == here
    assert read_tracks(run).equals(expected)
    assert len(list((run / "tracks").glob("*.parquet"))) == 2


def test_reading_what_is_not_there_or_was_changed(run: Path) -> None:
    with pytest.raises(RunError, match=f"onepass link {run}"):
        read_tracks(run)
    link_run(run)
    file = run / "tracks" / "part-00000.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(VerifyError, match=r"part-00000\.parquet"):
        read_tracks(run)
