"""The truth of a run's sequences: which file, and which of its frames is the run's frame 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import InputError
from index.vectors import Floats, Ints
from tracks.boxes import TrackBoxes
from tracks.evaluation.matching import better_shift
from tracks.motchallenge import FIRST_FRAME, UnjudgedBoxes, file_names, read_truth


@dataclass(frozen=True)
class RunTruth:
    """The truth of one sequence, in the frame numbers of the run."""

    boxes: TrackBoxes  # true boxes
    unjudged: UnjudgedBoxes  # true boxes that are not to be judged
    first_frame: int  # number in the file of the run's frame 0

    def better_first_frame(self, frames: Ints, boxes: Floats) -> int | None:
        """A number of the run's frame 0 with which its boxes lie clearly better on the true ones.

        Args:
            frames: of N boxes of the run ``[N]``, never falling.
            boxes: of the run, ``[N, 4]``.

        Returns:
            It; None where none is known.
        """
        shift = better_shift(frames, boxes, self.boxes)
        return None if shift is None else self.first_frame + shift


def read_run_truth(file: Path, first_frame: int | None) -> RunTruth:
    """Read a truth in the frame numbers of the run.

    Args:
        file: of MOTChallenge.
        first_frame: number in the file of the run's frame 0; None: 1, as MOTChallenge counts.

    Raises:
        InputError: as ``read_truth``; or it has a frame 0, and no ``first_frame`` was given.
    """
    boxes, unjudged = read_truth(file)
    lowest = min(boxes.frames.tolist() + unjudged.frames.tolist())
    if first_frame is None and lowest < FIRST_FRAME:
        raise InputError(
            f"{file} has frame {lowest}, and frames of MOTChallenge count from {FIRST_FRAME}; give "
            "`first_frame=0` if the run's frame 0 is its frame 0"
        )
    first = FIRST_FRAME if first_frame is None else first_frame
    return RunTruth(
        replace(boxes, frames=boxes.frames - first),
        replace(unjudged, frames=unjudged.frames - first),
        first,
    )


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
