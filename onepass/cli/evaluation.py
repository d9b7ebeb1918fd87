"""What ``onepass tracks evaluate`` prints: scores, what was left out, the worst individuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onepass.cli.console import echo, warn

if TYPE_CHECKING:
    from tracks.evaluation.evaluate import Evaluation, SequenceEvaluation
    from tracks.evaluation.scores import Scores

_WORST = 10  # individuals that are shown


def print_evaluation(evaluation: Evaluation) -> None:
    """Print an evaluated run for people."""
    for evaluated in evaluation.sequences:
        _print_scores(evaluated.sequence, evaluated.scores)
        for line in _left_out(evaluated):
            echo(f"  {line}")
    if len(evaluation.sequences) > 1:
        _print_scores(f"all {len(evaluation.sequences)}", evaluation.together)
    _print_individuals(evaluation)


def _print_scores(name: str, scores: Scores) -> None:
    echo(
        f"{name}: HOTA {scores.hota:.3f}  DetA {scores.det_a:.3f}  AssA {scores.ass_a:.3f}  "
        f"IDF1 {scores.idf1:.3f}  MOTA {scores.mota:.3f}"
    )
    echo(
        f"  {scores.switches} switches, {scores.fragmentations} fragmentations; "
        f"{scores.truth_tracks} individuals as {scores.tracks} tracks; {scores.missed} of "
        f"{scores.truth_boxes} boxes missed, {scores.false} of {scores.boxes} false"
    )


def _left_out(evaluated: SequenceEvaluation) -> list[str]:
    """Lines that say what was evaluated, and what was left out."""
    first = f"{evaluated.scores.frames} frames evaluated"
    if evaluated.empty_frames:
        first += f", in {evaluated.empty_frames} of them the run found nothing"
    left_out = {
        "frames of the truth left out: the run has not seen them": evaluated.unseen_frames,
        "frames of the run left out: the truth has none": evaluated.truthless_frames,
        "detections with an error count as not found": evaluated.failed,
        "detections in no track count as not found": evaluated.untracked,
        "lines of the truth are marked as not to be judged": evaluated.unjudged_lines,
        "boxes of the run lie on those and count as false": evaluated.unjudged_boxes,
        "boxes of the run lie on MOTChallenge's distractors and are left out": (
            evaluated.distractor_boxes
        ),
    }
    return [first, *(f"{count} {what}" for what, count in left_out.items() if count)]


def _print_individuals(evaluation: Evaluation) -> None:
    """Print those individuals of which the smallest share is in one track."""
    rows = [(one.sequence, row) for one in evaluation.sequences for row in one.individuals]
    rows.sort(key=lambda row: (row[1].share, -row[1].switches))
    echo("individual  boxes  found  in one track  switches  fragmentations  that track")
    for sequence, row in rows[:_WORST]:
        within = f" of {sequence}" if len(evaluation.sequences) > 1 and row.track is None else ""
        echo(
            f"{row.individual:>10}  {row.boxes:>5}  {row.found:>5}  {row.share:>12.1%}  "
            f"{row.switches:>8}  {row.fragmentations:>14}  {row.track or 'none'}{within}"
        )
    if len(rows) > _WORST:
        echo(f"  the worst {_WORST} of {len(rows)} individuals; --json has all")


def warn_of_frames(sequence: str, first_frame: int, better: int | None) -> None:
    """Warn where the run's boxes lie on the true ones with another number of its frame 0.

    Args:
        sequence: its name.
        first_frame: the number that was taken.
        better: the one that fits better; None: none is known.
    """
    if better is not None:
        warn(
            f"{sequence}: its boxes lie better on the true ones with `first_frame={better}`; its "
            f"frame 0 was taken for frame {first_frame} of the truth"
        )
