"""From a labelled run to link options in a file, and back into linking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from pipelines.detections import BOX
from pipelines.run import Run
from tests.helpers.commands import here, onepass
from tests.helpers.refusals import only_error
from tests.helpers.runs import write_run
from tests.helpers.scenes import crowd
from tracks.association.options import LinkOptions
from tracks.boxes import TrackBoxes
from tracks.evaluation.labels import labelled_by_column, labelled_by_truth
from tracks.evaluation.matching import UNMATCHED, match_boxes
from tracks.evaluation.tune import UNLABELLED

NIGHTS = ("monday", "tuesday", "wednesday")


def write_nights(folder: Path) -> tuple[Path, Path]:
    """A run of three labelled sequences, and a folder with the truth of them."""
    plan: dict[str, list[Any]] = {
        name: [] for name in ("image", "sequence", "frame", "x1", "y1", "x2", "y2", "who")
    }
    looks = []
    truth = folder / "truth"
    truth.mkdir(parents=True)
    for seed, night in enumerate(NIGHTS):
        frames, boxes, embeddings, who = crowd(frames=8, seed=seed)
        lines = []
        for row, frame in enumerate(frames.tolist()):
            plan["image"].append(f"{night}/{frame}.jpg")
            plan["sequence"].append(night)
            plan["frame"].append(frame)
            plan["who"].append(f"moth {who[row]}" if row else "")  # nobody knows the first
            for place, side in enumerate(("x1", "y1", "x2", "y2")):
                plan[side].append(float(boxes[row, place]))
            x1, y1, x2, y2 = boxes[row].tolist()
            if row:
                lines.append(f"{frame + 1},{who[row] + 1},{x1},{y1},{x2 - x1},{y2 - y1},1,-1,-1")
        (truth / f"{night}.txt").write_text("\n".join(lines))
        looks.append(embeddings)
    return write_run(folder / "run", plan, np.concatenate(looks)).path, truth


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_nights(tmp_path_factory.mktemp("nights"))


def test_both_kinds_of_labels_say_the_same(nights: tuple[Path, Path]) -> None:
    run, truth = nights
    by_truth, by_column = labelled_by_truth(run, truth), labelled_by_column(run, "who")
    assert [one.name for one in by_truth] == [one.name for one in by_column] == list(NIGHTS)
    for one, other in zip(by_truth, by_column, strict=True):
        assert np.array_equal(one.embeddings, other.embeddings)
        assert np.abs(one.embeddings).sum(axis=1) == pytest.approx(1)
        assert one.individuals[0] == other.individuals[0] == UNLABELLED
        pairs = set(zip(one.individuals[1:].tolist(), other.individuals[1:].tolist(), strict=True))
        assert len(pairs) == len(set(one.individuals[1:].tolist())) > 3
    stored = (
        Run.open(run).to_arrow(["embedding"])["embedding"].combine_chunks().flatten().to_numpy()
    )
    first = stored.reshape(-1, 16)[0]
    assert by_truth[0].embeddings[0] == pytest.approx(first / np.abs(first).sum())


def test_a_box_that_is_saved_twice_is_labelled_once(
    nights: tuple[Path, Path], tmp_path: Path
) -> None:
    run, truth = nights
    table = Run.open(run).to_arrow(["image", "sequence", "frame", *BOX, "who", "embedding"])
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 16)
    columns = table.drop_columns(["embedding"]).to_pydict()
    plan = {name: [value for value in values for _ in range(2)] for name, values in columns.items()}
    double = write_run(tmp_path / "run", plan, np.repeat(vectors, 2, axis=0)).path
    for single, found in (
        (labelled_by_truth(run, truth), labelled_by_truth(double, truth)),
        (labelled_by_column(run, "who"), labelled_by_column(double, "who")),
    ):
        for one, other in zip(single, found, strict=True):
            assert np.array_equal(one.boxes, other.boxes)
            assert np.array_equal(one.embeddings, other.embeddings)
            assert np.array_equal(one.individuals == UNLABELLED, other.individuals == UNLABELLED)


def test_a_true_box_is_given_once_and_to_the_best() -> None:
    truth = TrackBoxes(
        np.array([3, 4]), np.array([7, 8]), np.array([[0, 0, 10, 10], [0, 0, 10, 10.0]])
    )
    boxes = np.array([[0, 0, 10, 12], [0, 0, 10, 10], [0, 0, 10, 10], [6, 0, 16, 10.0]])
    assert match_boxes(np.array([3, 3, 4, 4]), boxes, truth).tolist() == [
        UNMATCHED,
        0,
        1,
        UNMATCHED,
    ]
    assert match_boxes(np.array([5]), boxes[:1], truth).tolist() == [UNMATCHED]


def test_from_labels_to_links(nights: tuple[Path, Path], tmp_path: Path) -> None:
    run, truth = nights
    out = tmp_path / "fitted.json"
    done = onepass(
        "tracks", "tune", run, "--truth", truth, "--out", out, "--max-gap-frames", 7, "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [fold["sequence"] for fold in document["folds"]] == list(NIGHTS)
    assert all(fold["tuned"]["idf1"] > 0.9 for fold in document["folds"])
    assert set(document["spread"]) > {"feature_weight", "max_cost", "idf1", "idf1_default"}
    fitted = LinkOptions.read(out)
    assert fitted == LinkOptions(**document["options"])
    assert fitted.max_gap_frames == 7
    assert fitted.weights != LinkOptions().weights
    done = onepass("link", run, "--options", out, "--max-cost", 0.5)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((run / "tracks" / "manifest.json").read_text())
    assert manifest["options"] == document["options"] | {"max_cost": 0.5}


def test_a_truth_that_is_a_frame_late_is_said(nights: tuple[Path, Path], tmp_path: Path) -> None:
    run, truth = nights
    tune = ("tracks", "tune", run, "--truth", truth, "--out", tmp_path / "x.json", "--json")
    done = here(*tune, "--first-frame", 2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("with --first-frame 1; its frame 0 was taken for frame 2") == 3
    assert "--first-frame" not in here(*tune).stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--truth-column"),
        (["--truth-column", "nobody"], "RUN has no such column"),
        (["--truth-column", "error"], "names nobody in RUN"),
        (["--truth-column", "sequence"], "sequence 'monday', frame 0"),
        (["--truth", "RUN"], "--truth RUN has no truth"),
        (["--truth", "TRUTH", "--first-frame", "500"], "(--first-frame)"),
    ],
)
def test_labels_that_do_not_fit(
    nights: tuple[Path, Path], tmp_path: Path, given: list[str], message: str
) -> None:
    run, truth = map(str, nights)
    given = [one.replace("RUN", run).replace("TRUTH", truth) for one in given]
    done = onepass("tracks", "tune", run, *given, "--out", tmp_path / "o")
    line = only_error(done.returncode, done.stdout, done.stderr)
    assert message.replace("RUN", run) in line
    assert not (tmp_path / "o").exists()


def test_options_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    for text, message in (
        ("{", "odd.json"),
        ('{"weight": 1}', "weight"),
        ('{"max_cost": 0}', "max_cost=0"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            LinkOptions.read(file)
