"""A linked run evaluated by the truth of its sequences: what is compared, and what is left out.

Only frames that the run has processed are evaluated: a clip sampled every tenth frame on these. A
run has rows of detections, so a frame without a row was either not processed or had no detection.
Where all its frames are evenly spaced (0, 10, 20, …), the missing ones count as frames without
detections; where they are not, only frames with a row are evaluated.

Detections with an error, and those in no track, count as not found: the individuals behind both
are missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from index.vectors import Ints
from tracks.association.frames import frame_step
from tracks.boxes import TrackBoxes
from tracks.evaluation.scores import Scores, evaluate_together
from tracks.linked_run import LinkedRun
from tracks.motchallenge import FIRST_FRAME, file_names, read_truth


@dataclass(frozen=True)
class SequenceEvaluation:
    """One evaluated sequence."""

    sequence: str  # its name
    truth: str  # the file it was compared with
    scores: Scores  # of its tracks
    empty_frames: int  # evaluated frames in which the run found nothing
    unseen_frames: int  # frames of the truth that the run has not processed; not evaluated
    truthless_frames: int  # frames of the run outside those of the truth; not evaluated
    failed: int  # detections with an error in the evaluated frames
    untracked: int  # detections in no track in the evaluated frames
    unjudged_lines: int  # lines of the truth that are marked as not to be judged


@dataclass(frozen=True)
class Evaluation:
    """An evaluated run."""

    sequences: list[SequenceEvaluation]  # those with a truth
    together: Scores  # scores of them all, counts added up
    without_truth: list[str]  # names of the others, which are not evaluated


def evaluate_run(
    run: Path, truth: Path, *, sequence: str | None = None, first_frame: int = FIRST_FRAME
) -> Evaluation:
    """Compare the tracks of a run with the truth.

    Args:
        run: a linked run.
        truth: a MOTChallenge file, or a folder with ``SEQUENCE.txt`` or ``SEQUENCE/gt/gt.txt``
            for each sequence.
        sequence: this one alone; needed where a file is given and the run has several.
        first_frame: number in the truth of the run's frame 0.

    Raises:
        RunError: the run is not linked.
        VerifyError: its tracks differ from their manifest.
        InputError: no truth, a truth that is malformed or shares no frame with its sequence, or
            the evaluator is not installed.
    """
    linked = LinkedRun.open(run, sequence)
    files = truth_files(truth, linked.sequences)
    compared = [
        _boxes_to_compare(linked.of(name), file, first_frame) for name, file in files.items()
    ]
    scores, together = evaluate_together([(true, tracked) for true, tracked, _ in compared])
    sequences = [
        SequenceEvaluation(name, str(file), scores_of_sequence, **counts)
        for (name, file), scores_of_sequence, (_, _, counts) in zip(
            files.items(), scores, compared, strict=True
        )
    ]
    return Evaluation(sequences, together, [name for name in linked.sequences if name not in files])


def truth_files(truth: Path, sequences: list[str]) -> dict[str, Path]:
    """The truth file of each of ``sequences`` that has one; ``truth`` as for ``evaluate_run``.

    Raises:
        InputError: there is none, or one file for several sequences.
    """
    given = f"`truth={str(truth)!r}`"
    if truth.is_file():
        if len(sequences) > 1:
            raise InputError(
                f"{given} is one file and the run has {len(sequences)} sequences; choose one with "
                "`sequence`, or give a folder with SEQUENCE.txt or SEQUENCE/gt/gt.txt each"
            )
        return {sequences[0]: truth}
    if not truth.is_dir():
        raise InputError(f"{given} does not exist; give a MOTChallenge gt.txt or a folder")
    files, safe_names = {}, file_names(sequences)
    for name, safe in safe_names.items():
        for path in (f"{name}.txt", f"{safe}.txt", f"{name}/gt/gt.txt", f"{safe}/gt/gt.txt"):
            if (truth / path).is_file():
                files[name] = truth / path
                break
    if not files:
        safe = safe_names[sequences[0]]
        raise InputError(
            f"{given} has no truth for any of {len(sequences)} sequences; for "
            f"{sequences[0]!r} it would be {safe}.txt or {safe}/gt/gt.txt"
        )
    return files


def _boxes_to_compare(
    linked: LinkedRun, file: Path, first_frame: int
) -> tuple[TrackBoxes, TrackBoxes, dict[str, int]]:
    """Truth and tracks in the evaluated frames, and counts of what was left out."""
    read, unjudged = read_truth(file)
    truth = TrackBoxes(read.frames - first_frame, read.ids, read.boxes)
    with_rows = np.unique(linked.frames)
    seen = with_rows
    if _evenly_spaced(with_rows):
        seen = np.arange(with_rows[0], with_rows[-1] + 1, frame_step(with_rows))
    evaluated = seen[(seen >= truth.frames.min()) & (seen <= truth.frames.max())]
    if not np.isin(truth.frames, evaluated).any():
        raise InputError(
            f"{file} and sequence {linked.sequences[0]!r} share no frame: the truth has "
            f"{read.frames.min()} to {read.frames.max()}, the run {seen[0]} to {seen[-1]}, and its "
            f"frame 0 is taken for frame {first_frame}; correct that with `first_frame`"
        )
    tracked, _ = linked.tracked()
    inside = np.isin(linked.frames, evaluated)
    return (
        truth.at(evaluated),
        tracked.at(evaluated),
        {
            "empty_frames": int((~np.isin(evaluated, with_rows)).sum()),
            "unseen_frames": int((~np.isin(np.unique(truth.frames), evaluated)).sum()),
            "truthless_frames": int(len(seen) - len(evaluated)),
            "failed": int((linked.failed & inside).sum()),
            "untracked": int((~linked.in_track & ~linked.failed & inside).sum()),
            "unjudged_lines": unjudged,
        },
    )


def _evenly_spaced(frames: Ints) -> bool:
    """Whether all frames are a multiple of their usual distance apart."""
    return bool((np.diff(frames) % frame_step(frames) == 0).all())
