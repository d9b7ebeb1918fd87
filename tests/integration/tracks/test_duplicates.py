"""A box that is saved twice is one individual, wherever tracks are read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ami.write_back import write_database
from api.service.tracks import TrackTable, read_steps
from common.errors import RunError
from common.json_models import sha256_file, write_record
from index.build.version import build_index
from index.search.snapshot import Snapshot
from pipelines.detections import BOX
from pipelines.run import Run
from tests.helpers.ami import DETECTIONS, change, fill, stored
from tests.helpers.commands import here
from tests.helpers.runs import write_run
from tests.integration.ami.worlds import run_of
from tracks.association.options import PRESETS, LinkOptions, Preset
from tracks.export import export_coco, export_mot
from tracks.link import link_run
from tracks.linked_run import LinkedRun
from tracks.plan import EmbeddingReader
from tracks.store import SCHEMA, TracksManifest, read_tracks

FRAMES, MOTHS = 6, 3
DOUBLES = FRAMES + 2


def rows_of_night() -> list[dict[str, Any]]:
    """Three still moths. The first is saved twice in each frame, and in two of them a third time."""
    rows = []
    for frame in range(FRAMES):
        for moth in range(MOTHS):
            box = np.array([100.0 * moth, 50, 100.0 * moth + 40, 90])
            rows.append({"id": f"{frame}-{moth}", "box": box, "score": 0.5})
        first = np.array([0.0, 50, 40, 90])
        # Before the one it repeats, with a higher score; with a lower one; as high.
        rows.append({"id": f"{frame}-again", "box": first, "score": (0.9, 0.1, 0.5)[frame % 3]})
        if frame in (2, 3):
            rows.append(
                {"id": f"{frame}-near", "box": first + np.array([2, -3, 3, 1]), "score": 0.2}
            )
    return rows


def night(
    folder: Path, *, double: bool = True, scores: bool = True, options: LinkOptions | None = None
) -> Path:
    """A linked run of it; the same without duplicates for comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in rows_of_night() if double or row["id"][2:].isdigit()]
    for frame in range(FRAMES):
        Image.new("RGB", (320, 240), (90, 90, 90)).save(folder / f"{frame}.png")
    plan: dict[str, list[Any]] = {
        "image": [f"{row['id'][0]}.png" for row in rows],
        "frame": [int(row["id"][0]) for row in rows],
        "detection_id": [row["id"] for row in rows],
        "sequence": ["night"] * len(rows),
        **dict(zip(BOX, np.array([row["box"] for row in rows]).T.tolist(), strict=True)),
    }
    if scores:
        plan["detector_score"] = [row["score"] for row in rows]
    looks = np.eye(8)[[int(row["box"][0] > 50) + int(row["box"][0] > 150) for row in rows]]
    looks += np.random.default_rng(0).normal(scale=0.01, size=looks.shape)
    run = write_run(folder / "run", plan, looks, root=folder)
    link_run(run.path, options=options)
    return run.path


@pytest.mark.parametrize("preset", ["default", "ami", "antenna"])
@pytest.mark.parametrize("scores", [True, False])
def test_one_is_linked_and_the_others_have_its_track(
    tmp_path: Path, preset: Preset, scores: bool
) -> None:
    run = night(tmp_path, scores=scores, options=PRESETS[preset])
    counts = TracksManifest.read(run / "tracks").counts
    assert (counts.detections, counts.duplicates) == (FRAMES * MOTHS + DOUBLES, DOUBLES)
    assert (counts.tracks, counts.linked) == (MOTHS, MOTHS * (FRAMES - 1))
    table = read_tracks(run)
    assert table.schema.equals(SCHEMA)
    rows = {row["detection_id"]: row for row in table.to_pylist()}
    for frame in range(FRAMES):
        group = {name for name in rows if name.startswith(f"{frame}-") and name[2:] not in "12"}
        (kept,) = (name for name in group if rows[name]["duplicate_of"] is None)
        assert kept == f"{frame}-" + ("again" if scores and frame % 3 == 0 else "0")
        for name in group - {kept}:
            row = rows[name]
            assert row["duplicate_of"] == kept
            assert [row[column] for column in ("track_id", "position", "frame")] == [
                *(rows[kept][column] for column in ("track_id", "position", "frame"))
            ]
            costs = {row[column] for column in SCHEMA.names if column.startswith("cost")}
            assert costs | {row["margin"], row["previous_detection_id"]} == {None}
        assert rows[kept]["position"] == frame
        assert rows[f"{frame}-2"]["duplicate_of"] is None
    # The links are those of the same scene without duplicates.
    alone = read_tracks(night(tmp_path / "alone", double=False, options=PRESETS[preset]))
    if not scores:
        kept_rows = table.filter(table["duplicate_of"].is_null())
        for column in ("detection_id", "track_id", "position", "previous_detection_id"):
            assert kept_rows[column].equals(alone[column])


def test_a_weak_box_again_is_in_no_track_and_counts_once(tmp_path: Path) -> None:
    run = night(tmp_path)
    options = LinkOptions(strong_score=0.6)
    link_run(run, options=options, score_column="detector_score")
    counts = TracksManifest.read(run / "tracks").counts
    assert counts.duplicates == DOUBLES
    assert counts.tracks + counts.linked + counts.weak + counts.duplicates == counts.detections
    rows = {row["detection_id"]: row for row in read_tracks(run).to_pylist()}
    assert rows["0-0"]["duplicate_of"] == "0-again"  # 0.9: it starts the track
    assert rows["0-0"]["track_id"] == rows["1-again"]["track_id"] == "night:00000"
    assert rows["1-1"]["track_id"] is None


def test_an_image_that_is_listed_twice_is_one_row_of_tracks(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    plan = {"image": ["a.png", "a.png", "b.png", "c.png", "c.png"], "frame": [0, 0, 1, 2, 2]}
    looks = np.array([[1.0, 0], [1, 0], [1, 0.1], [1, 0], [0, 1]])
    run = write_run(tmp_path / "run", plan, looks, root=tmp_path).path
    summary = link_run(run)
    assert (summary.tracks, summary.duplicates) == (1, 2)


def test_two_images_of_one_frame_have_boxes_of_their_own(tmp_path: Path) -> None:
    plan = {"image": ["left.png", "right.png"] * 2, "frame": [0, 0, 1, 1]}
    plan |= {side: [value] * 4 for side, value in zip(BOX, (0.0, 0.0, 40.0, 40.0), strict=True)}  # type: ignore[arg-type]
    run = write_run(tmp_path / "run", plan, np.eye(2)[[0, 1, 0, 1]]).path
    summary = link_run(run)
    assert (summary.tracks, summary.duplicates) == (2, 0)


def test_readers_neither_show_nor_count_it(tmp_path: Path) -> None:
    run = night(tmp_path)
    linked = LinkedRun.open(run)
    assert (linked.rows.num_rows, linked.duplicates) == (FRAMES * MOTHS, DOUBLES)
    assert linked.repeated_boxes() == 0
    mot = export_mot(run, tmp_path / "mot")
    coco = export_coco(run, tmp_path / "tracks.json")
    for exported in (mot, coco):
        assert (exported.boxes, exported.tracks) == (FRAMES * MOTHS, MOTHS)
        assert (exported.left_out, exported.repeated, exported.duplicates) == (0, 0, DOUBLES)
    document = json.loads((tmp_path / "tracks.json").read_bytes())
    assert len(document["annotations"]) == FRAMES * MOTHS
    done = here("tracks", "export", run, "--format", "mot", "--out", tmp_path / "again")
    assert f"; {DOUBLES} duplicates left out" in done.stdout
    assert done.stderr == ""


def test_judged_by_its_own_export_it_is_perfect(tmp_path: Path) -> None:
    run = night(tmp_path)
    export_mot(run, tmp_path / "mot")
    done = here("tracks", "evaluate", run, "--truth", tmp_path / "mot", "--json")
    scores = json.loads(done.stdout)["together"]
    assert (scores["hota"], scores["boxes"], scores["switches"]) == (1.0, FRAMES * MOTHS, 0)


def test_pictures_reviews_and_films_leave_it_out(tmp_path: Path) -> None:
    run = night(tmp_path, scores=False)
    done = here("tracks", "review", run, "--out", tmp_path / "review", "--json")
    assert json.loads(done.stdout)["of"] == MOTHS * (FRAMES - 1)
    with (tmp_path / "review" / "review.csv").open() as text:
        names = {row["detection_id"] for row in csv.DictReader(text)}
    assert len(names) == MOTHS * (FRAMES - 1)
    done = here("tracks", "video", run, "--out", tmp_path / "night.mp4", "--json")
    assert json.loads(done.stdout)["tracks"] == MOTHS
    # As without duplicates, to the last pixel.
    alone = night(tmp_path / "alone", double=False)
    for path, out in ((run, tmp_path / "a"), (alone, tmp_path / "b")):
        assert here("tracks", "draw", path, "--out", out).returncode == 0
    assert (tmp_path / "a/night.png").read_bytes() == (tmp_path / "b/night.png").read_bytes()


def test_the_command_says_how_many(tmp_path: Path) -> None:
    run = night(tmp_path)
    assert f"15 links, {DOUBLES} duplicates" in here("link", run).stdout
    assert json.loads(here("link", run, "--json").stdout)["duplicates"] == DOUBLES


def test_served_tracks_know_it_and_do_not_list_it(tmp_path: Path) -> None:
    run = night(tmp_path, scores=False)
    build_index([run], tmp_path / "index")
    snapshot = Snapshot.open(tmp_path / "index")
    steps = read_steps(snapshot.manifest)
    assert steps is not None
    table = TrackTable(steps)
    total, page = table.page(None, limit=10, offset=0)
    assert (total, [track["length"] for track in page]) == (MOTHS, [FRAMES] * MOTHS)
    members = table.steps(0, "night:00000")
    assert [step["frame"] for step in members] == list(range(FRAMES))
    assert table.track_of(0, "2-near") == table.track_of(0, "2-0") == "night:00000"
    # Hits grouped by track show it with its detection, not as one more animal.
    groups = table.grouping(snapshot)
    assert len(groups.values) == MOTHS


def test_a_database_gets_one_individual(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ami.db'}"
    fill(url, tmp_path / "traps")
    first = stored(url, "bbox")[1]["bbox"]
    change(url, DETECTIONS.update().where(DETECTIONS.c.id == 2).values(bbox=first))
    world = run_of(url, tmp_path / "run")
    write_database(world.path, url, features=False, write_back=True)
    names = ("sequence_id", "sequence_frame", "sequence_previous_id", "sequence_previous_cost")
    rows = stored(url, *names)
    assert rows[1]["sequence_id"] is not None
    assert rows[2] == {**rows[1], "id": 2}
    assert sum(row["sequence_previous_id"] == 2 for row in rows.values()) == 0


@pytest.mark.parametrize(
    ("form", "columns", "counts"),
    [
        (1, ["duplicate_of", "other_track_ids"], ["duplicates", "merged"]),
        (2, ["other_track_ids"], ["merged"]),
    ],
)
def test_tracks_of_earlier_formats_open(
    form: int, columns: list[str], counts: list[str], tmp_path: Path
) -> None:
    run = night(tmp_path, double=False)
    expected = read_tracks(run)
    file = run / "tracks" / "part-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(columns), file)
    record = json.loads((run / "tracks" / "manifest.json").read_text())
    for name in counts:
        del record["counts"][name]
    for name in ("entered", "left", "appeared", "vanished"):
        del record["learned"]["night"][name]
    del record["camera_moves"]
    _write_record(run, record | {"format": form})
    assert read_tracks(run).equals(expected)
    read = TracksManifest.read(run / "tracks")
    assert (read.counts.duplicates, read.counts.merged, read.camera_moves) == (0, 0, {})
    linked = LinkedRun.open(run)
    assert linked.rows.num_rows == FRAMES * MOTHS
    assert len(linked.individuals().ids) == FRAMES * MOTHS
    _write_record(run, record | {"format": 4})
    with pytest.raises(RunError):
        TracksManifest.read(run / "tracks")


def _write_record(run: Path, record: dict[str, Any]) -> None:
    """A manifest with its own hash and that of its file."""
    file = run / "tracks" / "part-00000.parquet"
    files = {file.name: sha256_file(file)}
    rest = {key: value for key, value in record.items() if key not in ("files", "sha256")}
    write_record(run / "tracks" / "manifest.json", rest | {"files": files})


def test_the_embeddings_of_doubtful_boxes_are_read_across_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes 15 of 100 pixels apart: one individual where they look the same, two where not."""
    boxes, looks, frames = [], [], []
    for frame in range(8):
        for moth in range(2):
            at = np.array([300.0 * moth, 0, 300.0 * moth + 100, 100])
            boxes += [at, at + np.array([15, 0, 15, 0])]
            looks += [np.eye(4)[2 * moth], np.eye(4)[2 * moth + moth]]  # the second pair are two
            frames += [frame, frame]
    plan: dict[str, list[Any]] = {"image": [f"{frame}.png" for frame in frames], "frame": frames}
    plan |= dict(zip(BOX, np.array(boxes).T.tolist(), strict=True))
    run = write_run(tmp_path / "run", plan, np.array(looks), files=3)
    assert Run.open(run.path).manifest.rows.written == 32
    summary = link_run(run.path)
    assert (summary.tracks, summary.duplicates) == (3, 8)
    expected = read_tracks(run.path)
    monkeypatch.setattr(EmbeddingReader.__init__, "__kwdefaults__", {"window_bytes": 1})
    link_run(run.path)
    assert read_tracks(run.path).equals(expected)
