"""``onepass tracks evaluate``: first frames, boxes that are not judged, and each individual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trackers.eval import evaluate_mot_sequence

from common.errors import InputError
from tests.helpers.runs import write_run
from tests.integration.tracks.test_commands import (
    FRAMES,
    box_columns,
    document,
    evaluated,
    output,
    place,
    refused,
    scene,
    truth,
)
from tracks.evaluation.evaluate import evaluate_run
from tracks.evaluation.labels import labelled_by_truth
from tracks.export import export_mot
from tracks.link import link_run


def walkers(folder: Path, *, first: int = 0, frames: int = FRAMES) -> Path:
    """A linked run of both walkers, none lost, whose frames count from ``first``."""
    rows = [(frame, walker) for frame in range(frames) for walker in range(2)]
    plan: dict[str, list[Any]] = {"image": [f"cam/{frame}.png" for frame, _ in rows]}
    plan["frame"] = [frame + first for frame, _ in rows]
    plan |= box_columns([place(walker, frame) for frame, walker in rows])
    looks = np.eye(8)[[walker for _, walker in rows]]
    run = write_run(folder / "run", plan, looks).path
    link_run(run)
    return run


def warned(run: Path, file: Path, *more: object) -> str:
    return output("evaluate", run, "--truth", file, *more)[1]


def test_a_truth_that_counts_from_0(tmp_path: Path) -> None:
    run, file = scene(tmp_path), truth(tmp_path / "gt.txt", first=0)
    assert "--first-frame 0" in refused("evaluate", run, "--truth", file)
    one, scores = evaluated(run, file, "--first-frame", 0)
    assert (scores["missed"], one["first_frame"], one["unseen_frames"]) == (1, 0, 0)
    assert one["better_first_frame"] is None
    for read in (evaluate_run, labelled_by_truth):
        with pytest.raises(InputError, match="`first_frame=0`"):
            read(run, file)
    with_0 = truth(tmp_path / "with_0.txt")
    with_0.write_text("0,9,0,0,5,5,0,1,1\n" + with_0.read_text())  # though it is not judged
    assert "--first-frame 0" in refused("evaluate", run, "--truth", with_0)
    # Who says that the run begins at the truth's second frame is believed, and warned.
    given = evaluated(run, file, "--first-frame", 1)[0]
    assert (given["first_frame"], given["better_first_frame"]) == (1, 0)
    assert "--first-frame 0" in warned(run, file, "--first-frame", 1)


@pytest.mark.parametrize(
    ("of_run", "of_truth", "given", "better"),
    [
        pytest.param(0, 1, None, None, id="as both should be"),
        pytest.param(1, 1, None, 0, id="a run from 1"),
        pytest.param(0, 2, None, 2, id="a truth from 2"),
        pytest.param(0, 0, 1, 0, id="a truth from 0, taken as from 1"),
        pytest.param(0, 1, 0, 1, id="a truth from 1, taken as from 0"),
        pytest.param(2, 1, None, -1, id="a run from 2"),
        pytest.param(5, 5, 0, None, id="both from 5"),
    ],
)
def test_boxes_that_are_shifted_are_noticed(
    tmp_path: Path, of_run: int, of_truth: int, given: int | None, better: int | None
) -> None:
    run, file = walkers(tmp_path, first=of_run), truth(tmp_path / "gt.txt", first=of_truth)
    more = () if given is None else ("--first-frame", given)
    assert evaluated(run, file, *more)[0]["better_first_frame"] == better
    assert labelled_by_truth(run, file, first_frame=given)[0].better_first_frame == better
    if better is None:
        assert warned(run, file, *more) == ""
    else:
        assert f"--first-frame {better};" in warned(run, file, *more)
        assert evaluated(run, file, "--first-frame", better)[1]["hota"] == 1


def test_labels_that_share_no_box_name_the_first_frame_that_does(tmp_path: Path) -> None:
    run, file = walkers(tmp_path, first=8), truth(tmp_path / "gt.txt")
    with pytest.raises(InputError, match="`first_frame=-7`"):
        labelled_by_truth(run, file)
    assert evaluated(run, file)[0]["better_first_frame"] == -7


def test_frames_of_the_truth_before_and_after_the_run(tmp_path: Path) -> None:
    """The run's frame 0 is the truth's frame 4, and both end elsewhere."""
    run = walkers(tmp_path)
    file = tmp_path / "gt.txt"
    lines = [
        f"{frame + 4} {walker + 1} {x} {y} 20 20\n"
        for frame in range(-3, 20)
        for walker in range(2)
        for x, y, *_ in [place(walker, frame)]
    ]
    file.write_text("".join(lines))
    one, scores = evaluated(run, file, "--first-frame", 4)
    assert (one["unseen_frames"], one["truthless_frames"], scores["frames"]) == (3 + 8, 0, 12)
    assert (scores["hota"], scores["missed"]) == (1, 0)
    file.write_text("".join(lines[16:24]))  # frames 9 to 12 of the truth alone
    one, scores = evaluated(run, file, "--first-frame", 4)
    assert (one["unseen_frames"], one["truthless_frames"], scores["frames"]) == (0, 8, 4)
    assert scores["hota"] == 1


def test_boxes_of_another_layout_are_said(tmp_path: Path) -> None:
    run, file = walkers(tmp_path), tmp_path / "gt.txt"
    file.write_text("".join(f"{frame + 1},1,2000,2000,5,5\n" for frame in range(FRAMES)))
    assert "no box of the run lies on a true one" in warned(run, file)


MARKED = {  # class of the second walker, whose confidence is 0: true boxes, false, left out
    "1": (12, 12, 0),
    "3": (12, 12, 0),  # a car
    "8": (12, 0, 12),  # a distractor
}


@pytest.mark.parametrize("kind", MARKED)
def test_boxes_that_are_not_judged_as_in_motchallenge(tmp_path: Path, kind: str) -> None:
    run, file = walkers(tmp_path), truth(tmp_path / "gt.txt")
    lines = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text(
        "".join(
            ",".join([*line[:6], "0", kind, "1"] if line[1] == "2" else line) + "\n"
            for line in lines
        )
    )
    one, scores = evaluated(run, file)
    boxes, false, left_out = MARKED[kind]
    assert (scores["truth_boxes"], scores["false"], scores["missed"]) == (boxes, false, 0)
    assert (one["unjudged_lines"], one["unjudged_boxes"], one["distractor_boxes"]) == (
        *(12, false, left_out),
    )
    check_as_trackers_reads(run, file, tmp_path / "mot")


def check_as_trackers_reads(run: Path, file: Path, out: Path) -> None:
    """The scores are those of the evaluator, which reads both files by itself."""
    export_mot(run, out)
    theirs = evaluate_mot_sequence(file, next(out.iterdir()), metrics=["CLEAR", "HOTA", "Identity"])
    (ours,) = evaluate_run(run, file).sequences
    scores = ours.scores
    assert theirs.CLEAR is not None
    assert theirs.HOTA is not None
    assert theirs.Identity is not None
    assert scores.hota == pytest.approx(theirs.HOTA.HOTA, abs=1e-9)
    assert scores.idf1 == pytest.approx(theirs.Identity.IDF1, abs=1e-9)
    assert scores.mota == pytest.approx(theirs.CLEAR.MOTA, abs=1e-9)
    counts = (scores.switches, scores.fragmentations, scores.missed, scores.false)
    clear = theirs.CLEAR
    assert counts == (clear.IDSW, clear.Frag, clear.CLR_FN, clear.CLR_FP)
    assert sum(one.switches for one in ours.individuals) == clear.IDSW
    assert sum(one.fragmentations for one in ours.individuals) == clear.Frag


@pytest.mark.parametrize("separator", [",", ", ", " ", "\t"])
def test_scores_as_trackers_reads(tmp_path: Path, separator: str) -> None:
    run, file = scene(tmp_path), truth(tmp_path / "gt.txt")
    file.write_text(file.read_text().replace(",", separator).replace("\n", "\r\n"))
    check_as_trackers_reads(run, file, tmp_path / "mot")


def test_the_table_of_individuals(tmp_path: Path) -> None:
    run, file = scene(tmp_path, sequences=("a", "b")), truth(tmp_path / "truths" / "a.txt")
    truth(tmp_path / "truths" / "b.txt")
    with file.open("a") as lines:  # twelve more, whom nobody sees, and none of the other sequence
        lines.writelines(f"1,{number},900,{30 * number},20,20,1,1,1\n" for number in range(3, 15))
    evaluation = document("evaluate", run, "--truth", tmp_path / "truths")
    a, b = evaluation["sequences"]
    assert len(a["individuals"]) == 14
    assert a["individuals"][0] == {
        "individual": 3,
        "boxes": 1,
        "found": 0,
        "track": None,
        "share": 0.0,
        "switches": 0,
        "fragmentations": 0,
    }
    lost, whole = b["individuals"]
    assert lost == {
        "individual": 2,
        "boxes": 12,
        "found": 11,
        "track": "b:00001",
        "share": pytest.approx(11 / 12),
        "switches": 0,
        "fragmentations": 1,
    }
    assert (whole["individual"], whole["share"], whole["track"]) == (1, 1, "b:00000")
    table = output("evaluate", run, "--truth", tmp_path / "truths")[0].splitlines()[-12:]
    assert table[0].split()[:3] == ["individual", "boxes", "found"]
    assert [line.split()[0] for line in table[1:11]] == [str(number) for number in range(3, 13)]
    assert "of 16 individuals" in table[11]
    alone = output("evaluate", run, "--truth", tmp_path / "truths", "--sequence", "b")[0]
    assert alone.splitlines()[-2].split() == ["2", "12", "11", "91.7%", "0", "1", "b:00001"]
