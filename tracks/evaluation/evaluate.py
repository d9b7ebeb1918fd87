"""A linked run judged by the truth of its sequences: what is compared, and what is left out.

Only frames that the run has seen are judged: a clip sampled every tenth frame on these. A run has
rows of detections, so a frame without a row is either one that nobody looked at or one in which
nothing was found. Where all its frames stand in one rhythm (0, 10, 20, …), the missing beats count
as frames in which nothing was found; where they do not, only frames with a row are judged.

A detection with an error has no embedding and no track, and one that no track took is in none: the
individuals behind both are missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from index.vectors import Ints
from tracks.association.linker import frame_step
from tracks.evaluation.scores import Scores, evaluate_together
from tracks.linked import LinkedRun
from tracks.motchallenge import FIRST_FRAME, file_names, read_truth
from tracks.tracked import TrackBoxes


@dataclass(frozen=True)
class SequenceEvaluation:
    """One sequence, judged.

    Attributes:
        sequence: its name.
        truth: the file it was judged by.
        scores: what it came to.
        empty_frames: of the judged ones, those in which the run found nothing.
        unseen_frames: of the truth, in which the run has not looked; they are not judged.
        truthless_frames: of the run, outside the frames of the truth; they are not judged.
        failed: detections with an error in the judged frames.
        untracked: detections that no track took in the judged frames.
        unjudged_lines: of the truth, that its file marks as not to be judged.
    """

    sequence: str
    truth: str
    scores: Scores
    empty_frames: int
    unseen_frames: int
    truthless_frames: int
    failed: int
    untracked: int
    unjudged_lines: int


@dataclass(frozen=True)
class Evaluation:
    """A run, judged.

    Attributes:
        sequences: those with a truth.
        together: of them all, counts added up.
        without_truth: sequences that were not judged.
    """

    sequences: list[SequenceEvaluation]
    together: Scores
    without_truth: list[str]


def evaluate_run(
    run: Path, truth: Path, *, sequence: str | None = None, first_frame: int = FIRST_FRAME
) -> Evaluation:
    """Judge the tracks of a run.

    Args:
        run: a linked run.
        truth: a MOTChallenge file, or a folder with ``SEQUENCE.txt`` or ``SEQUENCE/gt/gt.txt``
            for each sequence.
        sequence: this one alone; needed where a file is given and the run has several.
        first_frame: number in the truth of the frame that the run counts as 0.

    Raises:
        RunError, VerifyError: the run is not linked, or not as its manifests say.
        InputError: no truth, a truth that is malformed or shares no frame with its sequence, or
            the evaluator is not installed.
    """
    linked = LinkedRun.open(run, sequence)
    files = truth_files(truth, linked.sequences)
    pairs, facts = [], []
    for name, file in files.items():
        compared = _boxes_to_compare(linked.of(name), file, first_frame)
        pairs.append(compared[:2])
        facts.append((name, str(file), compared[2]))
    each, together = evaluate_together(pairs)
    judged = [
        SequenceEvaluation(name, file, scores, **left)
        for (name, file, left), scores in zip(facts, each, strict=True)
    ]
    return Evaluation(judged, together, [name for name in linked.sequences if name not in files])


def truth_files(truth: Path, sequences: list[str]) -> dict[str, Path]:
    """The truth of each of ``sequences`` that has one; ``truth`` as for ``evaluate_run``.

    Raises:
        InputError: there is none, or one file for several sequences.
    """
    if truth.is_file():
        if len(sequences) > 1:
            raise InputError(
                f"--truth {truth} is one file and the run has {len(sequences)} sequences; say which "
                "with --sequence, or give a folder with SEQUENCE.txt or SEQUENCE/gt/gt.txt each"
            )
        return {sequences[0]: truth}
    if not truth.is_dir():
        raise InputError(f"--truth {truth} does not exist; give a MOTChallenge gt.txt or a folder")
    found, names = {}, file_names(sequences)
    for name, safe in names.items():
        places = [f"{name}.txt", f"{safe}.txt", f"{name}/gt/gt.txt", f"{safe}/gt/gt.txt"]
        files = [truth / place for place in places if (truth / place).is_file()]
        if files:
            found[name] = files[0]
    if not found:
        safe = names[sequences[0]]
        raise InputError(
            f"--truth {truth} has no truth for any of {len(sequences)} sequences; for "
            f"{sequences[0]!r} it would be {safe}.txt or {safe}/gt/gt.txt"
        )
    return found


def _boxes_to_compare(
    linked: LinkedRun, file: Path, first_frame: int
) -> tuple[TrackBoxes, TrackBoxes, dict[str, int]]:
    """Truth and tracks in the frames to judge, and how much was left out."""
    told, unjudged = read_truth(file)
    truth = TrackBoxes(told.frames - first_frame, told.ids, told.boxes)
    rows = np.unique(linked.frames)
    seen = np.arange(rows[0], rows[-1] + 1, frame_step(rows)) if _evenly_spaced(rows) else rows
    inside = seen[(seen >= truth.frames.min()) & (seen <= truth.frames.max())]
    if not np.isin(truth.frames, inside).any():
        raise InputError(
            f"{file} and sequence {linked.sequences[0]!r} share no frame: the truth has "
            f"{told.frames.min()} to {told.frames.max()}, the run {rows[0]} to {rows[-1]}, and its "
            f"frame 0 is taken for frame {first_frame}; correct that with --first-frame"
        )
    found, _ = linked.tracked()
    here = np.isin(linked.frames, inside)
    failed = linked.rows["error"].is_valid().to_numpy()
    return (
        truth.at(inside),
        found.at(inside),
        {
            "empty_frames": int((~np.isin(inside, rows)).sum()),
            "unseen_frames": int((~np.isin(np.unique(truth.frames), inside)).sum()),
            "truthless_frames": int(len(seen) - len(inside)),
            "failed": int((failed & here).sum()),
            "untracked": int((~linked.in_track & ~failed & here).sum()),
            "unjudged_lines": unjudged,
        },
    )


def _evenly_spaced(frames: Ints) -> bool:
    """Whether all frames lie a multiple of their usual distance apart."""
    return bool((np.diff(frames) % frame_step(frames) == 0).all())
