"""Boxes around several animals, from the run to exports, pictures and reviews; and known numbers of animals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import onepass
from pipelines.detections import BOX
from tests.helpers.commands import here
from tests.helpers.merging import Merged, apart, line, merged
from tests.helpers.refusals import only_error
from tests.helpers.runs import write_run
from tests.helpers.walks import IMAGE, Walks, walks, without
from tracks.association.options import PRESETS
from tracks.export import export_mot
from tracks.link import link_run
from tracks.motchallenge import read_truth
from tracks.pictures.review import review_run
from tracks.store import TracksManifest, read_tracks


def run_of(folder: Path, scene: Walks) -> Path:
    for frame in np.unique(scene.frames).tolist():
        size = tuple(int(side) for side in IMAGE)
        Image.new("L", (size[0], size[1])).save(folder / f"{frame:03d}.png")
    plan: dict[str, list[Any]] = {
        "image": [f"{frame:03d}.png" for frame in scene.frames],
        "sequence": ["night 1"] * len(scene.frames),
        "frame": scene.frames.tolist(),
    }
    plan |= {side: scene.boxes[:, at].tolist() for at, side in enumerate(BOX)}
    looks = scene.looks / np.abs(scene.looks).sum(axis=1, keepdims=True)
    return write_run(folder / "run", plan, looks, root=folder).path


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Merged]:
    frames = range(60)
    paths = {0: line((300, 200), (6, 3), frames), 1: line((660, 200), (-6, 3), frames)}
    seen = merged(walks(paths | apart(3, frames), noise=0.2))
    run = run_of(tmp_path_factory.mktemp("crossing"), seen.scene)
    link_run(run)
    return run, seen


def test_a_box_names_the_tracks_in_it(crossing: tuple[Path, Merged]) -> None:
    run, seen = crossing
    table = read_tracks(run)
    tracks, others = table["track_id"].to_pylist(), table["other_track_ids"].to_pylist()
    assert len(set(tracks)) == 5
    several = [row for row, each in enumerate(seen.inside) if len(each) == 2]
    assert several
    assert [row for row, each in enumerate(others) if each] == several
    names = {frozenset({tracks[row], *others[row]}) for row in several}
    (pair,) = names
    of_pair = [row for row, name in enumerate(tracks) if name in pair and row not in several]
    assert {who for row in of_pair for who in seen.inside[row]} == {0, 1}
    manifest = TracksManifest.read(run / "tracks")
    assert manifest.counts.merged == len(several)
    shown = manifest.learned["night 1"]
    assert (shown.appeared, shown.vanished) == (0, 0)


def test_in_a_motchallenge_file_each_has_the_box(
    crossing: tuple[Path, Merged], tmp_path: Path
) -> None:
    run, seen = crossing
    export_mot(run, tmp_path / "mot")
    (file,) = (tmp_path / "mot").iterdir()
    found, _ = read_truth(file)
    assert len(found.ids) == sum(map(len, seen.inside)) == 60 * 5
    assert np.bincount(found.frames)[1:].tolist() == [5] * 60
    done = here("tracks", "evaluate", run, "--truth", tmp_path / "mot", "--json")
    judged = json.loads(done.stdout)["together"]
    assert [judged[name] for name in ("hota", "idf1", "mota", "switches")] == [1, 1, 1, 0]


def test_a_review_says_who_is_in_the_box(crossing: tuple[Path, Merged], tmp_path: Path) -> None:
    run, _ = crossing
    review_run(run, tmp_path / "review", worst=10**6)
    with (tmp_path / "review" / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = read_tracks(run)
    frames = [
        frame
        for frame, others in zip(
            table["frame"].to_pylist(), table["other_track_ids"].to_pylist(), strict=True
        )
        if others
    ]
    together = {(row["track_id"], row["in_one_box_with"]) for row in rows if row["in_one_box_with"]}
    (one, other), *more = sorted(together)
    assert more == [(other, one)]
    inside = [row for row in rows if row["in_one_box_with"]]
    assert all(
        int(row["frame_before"]) <= frames[-1] and frames[0] <= int(row["frame"]) for row in inside
    )


def test_a_review_says_where_the_camera_moved(tmp_path: Path) -> None:
    scene = walks(
        {who: line((100 + 110 * who, 150 + 40 * (who % 3)), (0, 0), range(10)) for who in range(6)}
    )
    shift = np.array([100, 30, 100, 30]) * (scene.frames >= 4)[:, None]
    run = run_of(tmp_path, Walks(scene.frames, scene.who, scene.boxes + shift, scene.looks))
    link_run(run)
    ((move,),) = TracksManifest.read(run / "tracks").camera_moves.values()
    assert (move.before, move.frame) == (3, 4)
    review_run(run, tmp_path / "review", worst=100)
    with (tmp_path / "review" / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["camera_moved"] for row in rows if row["frame"] == "4"} == {"100 30"}
    assert {row["camera_moved"] for row in rows if row["frame"] != "4"} == {""}


def test_a_known_number_from_the_command_line_and_python(tmp_path: Path) -> None:
    scene = walks(apart(4, range(100)), noise=0.2)
    scene = without(scene, 101, range(30, 70))
    run = run_of(tmp_path, scene)
    done = here("link", run, "--json")
    assert json.loads(done.stdout)["tracks"] == 5
    done = here("link", run, "--individuals", "4", "--json")
    assert (json.loads(done.stdout)["tracks"], json.loads(done.stdout)["notes"]) == (4, [])
    tracks = onepass.link(run, individuals=4, progress=False)
    assert len(tracks) == 4
    for count in (3, 6):
        summary = link_run(run, options=PRESETS["default"].replace(individuals=count))
        assert summary.tracks == (4 if count == 3 else 5)
        (note,) = summary.notes
        assert f"for {count} individuals" in note
    refused = here("link", run, "--individuals", "4", "--preset", "online")
    assert "individuals" in only_error(refused.returncode, refused.stdout, refused.stderr)
