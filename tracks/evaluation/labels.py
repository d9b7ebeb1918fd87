"""Sequences of a run whose individuals are named: from true boxes, or from a column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import linear_sum_assignment

from common.errors import InputError
from index.vectors import Floats, Ints
from pipelines.run import Run
from tracks.association.costs import box_overlap
from tracks.association.frames import by_frame
from tracks.boxes import TrackBoxes
from tracks.evaluation.evaluate import truth_files
from tracks.evaluation.tune import UNLABELLED, LabelledSequence
from tracks.geometry import read_geometry
from tracks.motchallenge import FIRST_FRAME, read_truth
from tracks.plan import EmbeddingReader, LinkPlan, read_plan

SAME_BOX = 0.5
"""Least IoU of a true box and a detection to be of the same individual."""


def labelled_by_truth(
    run: Path, truth: Path, *, first_frame: int = FIRST_FRAME
) -> list[LabelledSequence]:
    """Sequences that have a MOTChallenge truth; detections without a true box are unlabelled.

    Args:
        run: a finished run.
        truth: as for ``evaluate_run``.
        first_frame: number in the truth of the run's frame 0.

    Raises:
        RunError: the run keeps no embeddings.
        InputError: as ``evaluate_run``; a sequence shares no box with its truth.
    """
    opened = Run.open(run)
    plan = read_plan(opened, None)
    names = [plan.table["sequence"][rows.start].as_py() for rows in plan.sequences]
    files = truth_files(truth, names)
    with_labels = [rows for name, rows in zip(names, plan.sequences, strict=True) if name in files]
    labelled = []
    for sequence, _, stored in _sequences(opened, replace(plan, sequences=with_labels)):
        file = files[sequence.name]
        read, _ = read_truth(file)
        boxes = TrackBoxes(read.frames - first_frame, read.ids, read.boxes)
        individuals = match_individuals(sequence.frames, stored, boxes)
        if (individuals == UNLABELLED).all():
            raise InputError(
                f"{file} and sequence {sequence.name!r} share no box: none of {len(individuals)} "
                "detections covers a true one by half; is frame 0 the truth's frame "
                f"{first_frame} (`first_frame`)?"
            )
        labelled.append(replace(sequence, individuals=individuals))
    return labelled


def labelled_by_column(run: Path, column: str) -> list[LabelledSequence]:
    """Sequences whose individuals are named in a column; null or empty is unlabelled.

    Raises:
        RunError: the run keeps no embeddings.
        InputError: the column is missing, empty, or names an individual twice in one frame.
    """
    opened = Run.open(run)
    plan = read_plan(opened, None)
    given = f"`truth_column={column!r}`"
    if column not in opened.columns:
        raise InputError(
            f"{given}: {run} has no such column; give one that names the individual of each "
            "detection"
        )
    table = opened.to_arrow(["detection_id", column])
    names = table[column].cast(pa.string())
    names = pc.if_else(pc.equal(names, ""), pa.scalar(None, pa.string()), names)
    rows = pc.index_in(plan.table["detection_id"], table["detection_id"].combine_chunks())
    codes = names.take(rows).combine_chunks().dictionary_encode().indices
    numbers = codes.fill_null(UNLABELLED).to_numpy(zero_copy_only=False).astype(np.int64)
    with_labels = [rows for rows in plan.sequences if (numbers[rows] != UNLABELLED).any()]
    if not with_labels:
        raise InputError(f"{given} names nobody in {run}")
    labelled = []
    for sequence, rows, _ in _sequences(opened, replace(plan, sequences=with_labels)):
        individuals = numbers[rows]
        for frame in by_frame(sequence.frames):
            named = individuals[frame][individuals[frame] != UNLABELLED]
            if len(np.unique(named)) < len(named):
                raise InputError(
                    f"{given}: sequence {sequence.name!r}, frame {sequence.frames[frame.start]} "
                    "holds one individual twice; correct the labels"
                )
        labelled.append(replace(sequence, individuals=individuals))
    return labelled


def _sequences(run: Run, plan: LinkPlan) -> Iterator[tuple[LabelledSequence, slice, Floats]]:
    """The sequences of a plan without labels, and the rows and stored boxes of each."""
    reader = EmbeddingReader(run, plan.table)
    for rows in plan.sequences:
        table = plan.table[rows]
        stored = read_geometry(run, table)
        measured = stored.in_common_frame()
        yield (
            LabelledSequence(
                name=table["sequence"][0].as_py(),
                frames=table["frame"].to_numpy(),
                boxes=measured.boxes,
                embeddings=reader.rows(rows.start, rows.stop),
                diagonals=measured.diagonals,
                individuals=np.full(table.num_rows, UNLABELLED, dtype=np.int64),
            ),
            rows,
            stored.boxes,
        )


def match_individuals(frames: Ints, boxes: Floats, truth: TrackBoxes) -> Ints:
    """Match detections to true boxes, each at most once, for the largest total overlap.

    Args:
        frames: of N detections ``[N]``, never falling.
        boxes: of the detections, ``[N, 4]``.
        truth: true boxes, by the same frame numbers.

    Returns:
        The individual of each detection ``[N]``, else ``UNLABELLED``.
    """
    individuals = np.full(len(frames), UNLABELLED, dtype=np.int64)
    order = np.argsort(truth.frames, kind="stable")
    for rows in by_frame(frames):
        frame = frames[rows.start]
        start, stop = np.searchsorted(truth.frames[order], [frame, frame + 1])
        true = order[start:stop]
        overlap = box_overlap(boxes[rows][:, None], truth.boxes[true][None])
        detection, matched = linear_sum_assignment(-np.where(overlap >= SAME_BOX, overlap, 0))
        same = overlap[detection, matched] >= SAME_BOX
        individuals[rows.start + detection[same]] = truth.ids[true[matched[same]]]
    return individuals
