"""A linked run evaluated by the truth of its sequences: what is compared, and what is left out.

Only frames that the run has processed are evaluated: a clip sampled every tenth frame on these. A
run has rows of detections, so a frame without a row was either not processed or had no detection.
Where all its frames are evenly spaced (0, 10, 20, …), the missing ones count as frames without
detections; where they are not, only frames with a row are evaluated.

Detections with an error, and those in no track, count as not found: the individuals behind both
are missed.

True boxes that are not to be judged are no one's. As in MOTChallenge, a box of the run on one of
them counts as false, unless the class of the true box is one of its distractors: then it is left
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from index.vectors import Ints
from tracks.association.frames import frame_step
from tracks.association.state import Bools
from tracks.boxes import TrackBoxes
from tracks.evaluation.individuals import Individual, trace_individuals
from tracks.evaluation.matching import UNMATCHED, match_boxes
from tracks.evaluation.scores import Scores, evaluate_together
from tracks.evaluation.truth import RunTruth, read_run_truth, truth_files
from tracks.linked_run import LinkedRun


@dataclass(frozen=True)
class SequenceEvaluation:
    """One evaluated sequence."""

    sequence: str  # its name
    truth: str  # the file it was compared with
    scores: Scores  # of its tracks
    individuals: list[Individual]  # of the truth, those first of which the least is in one track
    first_frame: int  # number in the truth of the run's frame 0
    # One with which the run's boxes lie clearly better on the true ones; None: none is known.
    better_first_frame: int | None
    empty_frames: int  # evaluated frames in which the run found nothing
    unseen_frames: int  # frames of the truth that the run has not processed; not evaluated
    truthless_frames: int  # frames of the run outside those of the truth; not evaluated
    failed: int  # detections with an error in the evaluated frames
    untracked: int  # detections in no track in the evaluated frames
    unjudged_lines: int  # lines of the truth that are marked as not to be judged
    unjudged_boxes: int  # boxes of the run on true boxes not to be judged; they count as false
    distractor_boxes: int  # those on distractors of MOTChallenge; left out


@dataclass(frozen=True)
class Evaluation:
    """An evaluated run."""

    sequences: list[SequenceEvaluation]  # those with a truth
    together: Scores  # scores of them all, counts added up
    without_truth: list[str]  # names of the others, which are not evaluated


@dataclass(frozen=True)
class _Compared:
    """One sequence in its evaluated frames."""

    truth: TrackBoxes  # true boxes
    tracked: TrackBoxes  # boxes in tracks
    names: dict[int, str]  # of the tracks, by id
    first_frame: int  # as in ``SequenceEvaluation``, like what follows
    better_first_frame: int | None
    counts: dict[str, int]


def evaluate_run(
    run: Path, truth: Path, *, sequence: str | None = None, first_frame: int | None = None
) -> Evaluation:
    """Compare the tracks of a run with the truth.

    Args:
        run: a linked run.
        truth: a MOTChallenge file, or a folder with ``SEQUENCE.txt`` or ``SEQUENCE/gt/gt.txt``
            for each sequence.
        sequence: this one alone; needed where a file is given and the run has several.
        first_frame: number in the truth of the run's frame 0; None: 1, as MOTChallenge counts, and
            a truth with a frame 0 is refused.

    Raises:
        RunError: the run is not linked.
        VerifyError: its tracks differ from their manifest.
        InputError: no truth, a truth that is malformed or shares no frame with its sequence, or
            the evaluator is not installed.
    """
    linked = LinkedRun.open(run, sequence)
    files = truth_files(truth, linked.sequences)
    compared = {name: _compare(linked.of(name), file, first_frame) for name, file in files.items()}
    scores, together = evaluate_together([(one.truth, one.tracked) for one in compared.values()])
    sequences = [
        SequenceEvaluation(
            sequence=name,
            truth=str(files[name]),
            scores=scores_of_sequence,
            individuals=trace_individuals(one.truth, one.tracked, one.names),
            first_frame=one.first_frame,
            better_first_frame=one.better_first_frame,
            **one.counts,
        )
        for (name, one), scores_of_sequence in zip(compared.items(), scores, strict=True)
    ]
    return Evaluation(sequences, together, [name for name in linked.sequences if name not in files])


def _compare(linked: LinkedRun, file: Path, first_frame: int | None) -> _Compared:
    """Truth and tracks in the evaluated frames, and what was left out."""
    truth = read_run_truth(file, first_frame)
    true_frames = truth.boxes.frames
    with_rows = np.unique(linked.frames)
    seen = with_rows
    if _evenly_spaced(with_rows):
        seen = np.arange(with_rows[0], with_rows[-1] + 1, frame_step(with_rows))
    evaluated = seen[(seen >= true_frames.min()) & (seen <= true_frames.max())]
    if not np.isin(true_frames, evaluated).any():
        in_file = true_frames + truth.first_frame
        raise InputError(
            f"{file} and sequence {linked.sequences[0]!r} share no frame: the truth has "
            f"{in_file.min()} to {in_file.max()}, the run {seen[0]} to {seen[-1]}, and its "
            f"frame 0 is taken for frame {truth.first_frame}; correct that with `first_frame`"
        )
    in_tracks, rows = linked.tracked()
    names = linked.rows["track_id"].take(rows).to_pylist()
    inside = np.isin(linked.frames, evaluated)
    tracked = linked.individuals().at(evaluated)
    on_unjudged, on_distractors = _on_unjudged(tracked, truth)
    return _Compared(
        truth=truth.boxes.at(evaluated),
        tracked=TrackBoxes(*(part[~on_distractors] for part in vars(tracked).values())),
        names=dict(zip(in_tracks.ids.tolist(), names, strict=True)),
        first_frame=truth.first_frame,
        better_first_frame=truth.better_first_frame(in_tracks.frames, in_tracks.boxes),
        counts={
            "empty_frames": int((~np.isin(evaluated, with_rows)).sum()),
            "unseen_frames": int((~np.isin(np.unique(true_frames), evaluated)).sum()),
            "truthless_frames": int(len(seen) - len(evaluated)),
            "failed": int((linked.failed & inside).sum()),
            "untracked": int((~linked.in_track & ~linked.failed & inside).sum()),
            "unjudged_lines": len(truth.unjudged),
            "unjudged_boxes": int(on_unjudged.sum()),
            "distractor_boxes": int(on_distractors.sum()),
        },
    )


def _on_unjudged(tracked: TrackBoxes, truth: RunTruth) -> tuple[Bools, Bools]:
    """Which of N boxes of the run lie on true boxes that are not judged: plain ones, distractors.

    As in MOTChallenge they are matched with all true boxes, so that one on an individual as well
    goes to whom it fits best.
    """
    unjudged, judged = truth.unjudged, len(truth.boxes.ids)
    if not len(unjudged):
        none = np.zeros(len(tracked.ids), dtype=bool)
        return none, none
    every = TrackBoxes(
        np.concatenate([truth.boxes.frames, unjudged.frames]),
        np.zeros(judged + len(unjudged), dtype=np.int64),
        np.concatenate([truth.boxes.boxes, unjudged.boxes]),
    )
    matches = match_boxes(tracked.frames, tracked.boxes, every)
    kinds = np.concatenate([np.zeros(judged, dtype=np.int64), 1 + unjudged.distractor])
    kind = np.where(matches == UNMATCHED, 0, kinds[matches])
    return kind == 1, kind == 2


def _evenly_spaced(frames: Ints) -> bool:
    """Whether all frames are a multiple of their usual distance apart."""
    return bool((np.diff(frames) % frame_step(frames) == 0).all())
