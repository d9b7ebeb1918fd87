"""Sequences of a run whose individuals are named: from true boxes, or from a column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from index.vectors import Floats, Ints
from pipelines.run import Run
from tracks.association.duplicates import find_duplicates
from tracks.association.frames import by_frame
from tracks.evaluation.matching import UNMATCHED, match_boxes
from tracks.evaluation.truth import read_run_truth, truth_files
from tracks.evaluation.tune import UNLABELLED, LabelledSequence
from tracks.geometry import read_geometry
from tracks.plan import SCORE, EmbeddingReader, LinkPlan, image_numbers, read_plan


def labelled_by_truth(
    run: Path, truth: Path, *, first_frame: int | None = None
) -> list[LabelledSequence]:
    """Sequences that have a MOTChallenge truth; detections without a true box are unlabelled.

    Args:
        run: a finished run.
        truth: as for ``evaluate_run``.
        first_frame: as for ``evaluate_run``.

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
        true = read_run_truth(file, first_frame)
        matches = match_boxes(sequence.frames, stored, true.boxes)
        better = true.better_first_frame(sequence.frames, stored)
        if (matches == UNMATCHED).all():
            advice = "`first_frame`" if better is None else f"it fits with `first_frame={better}`"
            raise InputError(
                f"{file} and sequence {sequence.name!r} share no box: none of {len(matches)} "
                "detections covers a true one by half; is frame 0 the truth's frame "
                f"{true.first_frame} ({advice})?"
            )
        labelled.append(
            replace(
                sequence,
                individuals=np.where(matches == UNMATCHED, UNLABELLED, true.boxes.ids[matches]),
                first_frame=true.first_frame,
                better_first_frame=better,
            )
        )
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


def _sequences(run: Run, plan: LinkPlan) -> Iterator[tuple[LabelledSequence, Ints, Floats]]:
    """The sequences of a plan without labels; rows that are no duplicates, and their stored boxes."""
    reader = EmbeddingReader(run, plan.table)
    for rows in plan.sequences:
        table = plan.table[rows]
        stored, frames = read_geometry(run, table), table["frame"].to_numpy()
        measured = stored.in_common_frame()
        embeddings = reader.rows(rows.start, rows.stop)
        scores = table[SCORE].to_numpy() if SCORE in table.column_names else None
        kept = find_duplicates(
            frames, image_numbers(table), stored.boxes, embeddings.__getitem__, scores
        )
        single = np.flatnonzero(kept == np.arange(len(kept)))
        yield (
            LabelledSequence(
                name=table["sequence"][0].as_py(),
                frames=frames[single],
                boxes=measured.boxes[single],
                embeddings=embeddings[single],
                sizes=measured.sizes[single],
                individuals=np.full(len(single), UNLABELLED, dtype=np.int64),
            ),
            rows.start + single,
            stored.boxes[single],
        )
