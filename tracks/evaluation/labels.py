"""Sequences of a run whose individuals are known: from a truth of boxes, or from a column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import linear_sum_assignment

from common.errors import InputError
from index.vectors import Floats, Ints
from pipelines.run import Run
from tracks.association.costs import box_overlap
from tracks.association.linker import by_frame
from tracks.embeddings import EmbeddingReader
from tracks.evaluation.evaluate import truth_files
from tracks.evaluation.tune import UNLABELLED, LabelledSequence
from tracks.motchallenge import FIRST_FRAME, read_truth
from tracks.sequences import read_plan
from tracks.sizes import geometry
from tracks.tracked import TrackBoxes

SAME_BOX = 0.5
"""Of a true box and a detection: the least IoU to be of the same individual."""


def labelled_by_truth(
    run: Path, truth: Path, *, first_frame: int = FIRST_FRAME
) -> list[LabelledSequence]:
    """Sequences that have a MOTChallenge truth; detections without a true box are nobody.

    Args:
        run: a finished run.
        truth: as for ``evaluate_run``.
        first_frame: number in the truth of the frame that the run counts as 0.

    Raises:
        RunError, InputError: as ``read_plan`` and ``evaluate_run``; a sequence shares no box with
            its truth.
    """
    opened = Run.open(run)
    plan = read_plan(opened, None)
    names = [plan.table["sequence"][part.start].as_py() for part in plan.sequences]
    files = truth_files(truth, names)
    looks = EmbeddingReader(opened, plan.table)
    found = []
    for name, part in zip(names, plan.sequences, strict=True):
        if name not in files:
            continue
        told, _ = read_truth(files[name])
        rows = plan.table[part]
        frames, places = rows["frame"].to_numpy(), geometry(opened, rows)
        who = match_individuals(
            frames, places.boxes, TrackBoxes(told.frames - first_frame, told.ids, told.boxes)
        )
        if (who == UNLABELLED).all():
            raise InputError(
                f"{files[name]} and sequence {name!r} share no box: none of {len(who)} detections "
                f"covers a true one by half; is frame 0 the truth's frame {first_frame} "
                "(--first-frame)?"
            )
        normal = looks.rows(part.start, part.stop)
        found.append(LabelledSequence(name, frames, places.boxes, normal, places.diagonals, who))
    return found


def labelled_by_column(run: Path, column: str) -> list[LabelledSequence]:
    """Sequences whose individuals are named in a column; null, or nothing, is nobody.

    Raises:
        RunError, InputError: as ``read_plan``; the column is missing, empty, or names an
            individual twice in one frame.
    """
    opened = Run.open(run)
    plan = read_plan(opened, None)
    try:
        named = opened.table(["detection_id", column])
    except (KeyError, pa.ArrowException):
        raise InputError(
            f"--truth-column {column}: {run} has no such column; give one that names the "
            "individual of each detection"
        ) from None
    names = named[column].cast(pa.string())
    names = pc.if_else(pc.equal(names, ""), pa.scalar(None, pa.string()), names)
    at = pc.index_in(plan.table["detection_id"], named["detection_id"].combine_chunks())
    codes = names.take(at).combine_chunks().dictionary_encode().indices
    numbers = codes.fill_null(UNLABELLED).to_numpy(zero_copy_only=False)
    looks = EmbeddingReader(opened, plan.table)
    found = []
    for part in plan.sequences:
        who = numbers[part].astype(np.int64)
        if (who == UNLABELLED).all():
            continue
        rows = plan.table[part]
        name, frames = rows["sequence"][0].as_py(), rows["frame"].to_numpy()
        for frame in by_frame(frames):
            known = who[frame][who[frame] != UNLABELLED]
            if len(np.unique(known)) < len(known):
                raise InputError(
                    f"--truth-column {column}: sequence {name!r}, frame {frames[frame.start]} "
                    "holds one individual twice; correct the labels"
                )
        places = geometry(opened, rows)
        normal = looks.rows(part.start, part.stop)
        found.append(LabelledSequence(name, frames, places.boxes, normal, places.diagonals, who))
    if not found:
        raise InputError(f"--truth-column {column} names nobody in {run}")
    return found


def match_individuals(frames: Ints, boxes: Floats, truth: TrackBoxes) -> Ints:
    """Whom each detection shows: the true box it covers best, each box once; else ``NOBODY``.

    Args:
        frames: of N detections, never falling.
        boxes: theirs, ``[N, 4]``.
        truth: true boxes, by the same frame numbers.
    """
    who = np.full(len(frames), UNLABELLED, dtype=np.int64)
    order = np.argsort(truth.frames, kind="stable")
    for rows in by_frame(frames):
        frame = frames[rows.start]
        start, stop = np.searchsorted(truth.frames[order], [frame, frame + 1])
        there = order[start:stop]
        overlap = box_overlap(boxes[rows][:, None], truth.boxes[there][None])
        mine, theirs = linear_sum_assignment(-np.where(overlap >= SAME_BOX, overlap, 0))
        same = overlap[mine, theirs] >= SAME_BOX
        who[rows.start + mine[same]] = truth.ids[there[theirs[same]]]
    return who
