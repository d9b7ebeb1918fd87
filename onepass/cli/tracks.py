"""The commands of ``onepass tracks``: evaluate, draw, review, export and tune."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from common.errors import InputError
from common.json_models import write_atomic
from common.moved import read_pairs
from common.progress import ProgressBar
from onepass.cli.console import Images, Json, echo, local_path, print_json, warn
from onepass.cli.evaluation import print_evaluation, warn_of_frames
from tracks.association.options import PRESETS

if TYPE_CHECKING:
    from tracks.evaluation.tune import Tuning

app = typer.Typer(no_args_is_help=True, help="Judge, show, review, tune and export tracks.")

Run = Annotated[
    Path, typer.Argument(parser=local_path, help="A run that 'onepass link' has linked.")
]
FirstFrame = Annotated[
    int | None,
    typer.Option(
        help="Number in the truth of the frame that the run counts as 0; without it 1, as "
        "MOTChallenge counts."
    ),
]
Sequence = Annotated[str | None, typer.Option(help="This sequence alone.")]


@app.command()
def evaluate(
    run: Run,
    truth: Annotated[
        Path,
        typer.Option(
            parser=local_path,
            help="A MOTChallenge gt.txt, or a folder of SEQUENCE.txt or SEQUENCE/gt/gt.txt.",
        ),
    ],
    sequence: Sequence = None,
    first_frame: FirstFrame = None,
    as_json: Json = False,
) -> None:
    """Judge tracks by their truth: HOTA, IDF1, MOTA, switches; all, and each individual.

    Only frames that the run has images of are evaluated.

    Example: onepass tracks evaluate runs/first --truth gt.txt
    """
    from tracks.evaluation.evaluate import evaluate_run  # late: SciPy and Arrow take a second

    evaluation = evaluate_run(run, truth, sequence=sequence, first_frame=first_frame)
    if as_json:
        print_json(asdict(evaluation))
    else:
        print_evaluation(evaluation)
    for one in evaluation.sequences:
        warn_of_frames(one.sequence, one.first_frame, one.better_first_frame)
        if one.better_first_frame is None and one.scores.missed == one.scores.truth_boxes:
            warn(
                f"{one.sequence}: no box of the run lies on a true one; do both have left, top, "
                f"width, height in pixels of the same images, and is the run's frame 0 frame "
                f"{one.first_frame} of the truth (`first_frame`)?"
            )
    if missing := evaluation.without_truth:
        shown = ", ".join(missing[:5]) + (", …" if missing[5:] else "")
        warn(f"{len(missing)} sequences have no truth and are not evaluated: {shown}")


@app.command()
def draw(
    run: Run,
    out: Annotated[Path, typer.Option(parser=local_path, help="A folder; one picture a sequence.")],
    sequence: Sequence = None,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Draw the tracks of each sequence over its scene.

    Example: onepass tracks draw runs/first --out pictures
    """
    from tracks.pictures.draw import draw_run  # late: OpenCV is an extra, and takes a second

    with ProgressBar(resumes=False) as bar:
        pictures = draw_run(
            run, out, sequence=sequence, pairs=read_pairs(images), progress=bar.callback("draw")
        )
    _warn_of_missing(pictures.missing, "left out of the scenes", run, images)
    if pictures.blank:
        warn(f"{pictures.blank} sequences are drawn on white: none of their images can be read")
    last = f" to {pictures.files[-1]}" if len(pictures.files) > 1 else ""
    _show(pictures, as_json, f"{len(pictures.files)} pictures: {pictures.files[0]}{last}")


@app.command()
def video(
    run: Run,
    out: Annotated[Path, typer.Option(parser=local_path, help="A file that ends in .mp4.")],
    sequence: Annotated[str | None, typer.Option(help="Which, where the run has several.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, max=240, help="Frames a second; of a video its own, of photos 4."),
    ] = None,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Film one sequence: boxes, track ids, the tail of each path; corners where one is lost.

    Example: onepass tracks video runs/first --out night0.mp4 --sequence night0
    """
    from tracks.pictures.video import render_video  # late: as in draw

    with ProgressBar(resumes=False) as bar:
        film = render_video(
            run,
            out,
            sequence=sequence,
            fps=fps,
            pairs=read_pairs(images),
            progress=bar.callback("video"),
        )
    _warn_of_missing(film.missing, "shown as grey frames", run, images)
    _show(
        film,
        as_json,
        f"{film.file}: {film.frames} frames of {film.sequence} at {film.fps:g}/s, "
        f"{film.tracks} tracks, {film.size[0]}x{film.size[1]}, {film.codec}",
    )


@app.command()
def review(
    run: Run,
    out: Annotated[
        Path, typer.Option(parser=local_path, help="A folder for the sheets and review.csv.")
    ],
    worst: Annotated[int, typer.Option(min=1, help="How many links to show.")] = 50,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Show the most doubtful links: both crops, the four terms, cost and margin.

    review.csv has the same links with their ids, and a column for your verdict.

    Example: onepass tracks review runs/first --out review
    """
    from tracks.pictures.review import review_run  # late: as in draw

    with ProgressBar(resumes=False) as bar:
        reviewed = review_run(
            run, out, worst=worst, pairs=read_pairs(images), progress=bar.callback("crops")
        )
    _warn_of_missing(reviewed.missing, "shown as grey crops", run, images)
    _show(
        reviewed,
        as_json,
        f"{reviewed.table}: the {reviewed.links} most doubtful of {reviewed.of} links, on "
        f"{len(reviewed.sheets)} sheets from {reviewed.sheets[0]}",
    )


@app.command()
def export(
    run: Run,
    out: Annotated[
        Path, typer.Option(parser=local_path, help="A new folder for mot, a file for coco.")
    ],
    format_: Annotated[
        Literal["mot", "coco"],
        typer.Option("--format", help="MOTChallenge, a file a sequence; JSON as of COCO."),
    ],
    first_frame: Annotated[int, typer.Option(help="What mot calls frame 0.")] = 1,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Write tracks for other tools.

    Example: onepass tracks export runs/first --format mot --out tracks-mot
    """
    from tracks.export import export_coco, export_mot  # late: SciPy and Arrow take a second

    if format_ == "mot":
        exported = export_mot(run, out, first_frame=first_frame)
    else:
        with ProgressBar(resumes=False) as bar:
            exported = export_coco(
                run, out, pairs=read_pairs(images), progress=bar.callback("images")
            )
    if exported.unsized:
        warn(f"{exported.unsized} images have no width and height: they cannot be read")
    if exported.repeated:
        warn(
            f"{exported.repeated} boxes are in a track that has another box of their frame; each such "
            "box is written as a track of its own"
        )
    _show(
        exported,
        as_json,
        f"{out}: {exported.boxes} boxes in {exported.tracks} tracks"
        + (f" in {len(exported.files)} files" if format_ == "mot" else "")
        + (f"; {exported.left_out} detections in no track left out" if exported.left_out else "")
        + (f"; {exported.duplicates} duplicates left out" if exported.duplicates else ""),
    )


@app.command()
def tune(
    run: Annotated[
        Path,
        typer.Argument(parser=local_path, help="A finished run of two or more labelled sequences."),
    ],
    out: Annotated[
        Path,
        typer.Option(parser=local_path, help="The options, a file for onepass link --options."),
    ],
    truth: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            help="A folder of MOTChallenge files, as for onepass tracks evaluate.",
        ),
    ] = None,
    truth_column: Annotated[
        str | None, typer.Option(help="Or: a column of the run that names the individual.")
    ] = None,
    first_frame: FirstFrame = None,
    max_gap_frames: Annotated[
        int | None, typer.Option(min=0, help="Frames a track may be missing; it is not fitted.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit the weights and the threshold of linking to sequences whose individuals are known.

    Each sequence is left out once and linked with what the others taught; the scores shown are
    of those, beside the default's. Compare before you use the result.

    Example: onepass tracks tune runs/nights --truth truth/ --out nights.json
    """
    # late: SciPy and Arrow take a second
    from tracks.evaluation.labels import labelled_by_column, labelled_by_truth
    from tracks.evaluation.tune import tune as fit

    if (truth is None) == (truth_column is None):
        raise InputError("give exactly one of --truth and --truth-column")
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out} is a folder; give a file")
    base = PRESETS["online"]
    if max_gap_frames is not None:
        base = base.replace(max_gap_frames=max_gap_frames)
    if truth is not None:
        sequences = labelled_by_truth(run, truth, first_frame=first_frame)
    else:
        assert truth_column is not None
        sequences = labelled_by_column(run, truth_column)
    for one in sequences:
        warn_of_frames(one.name, one.first_frame, one.better_first_frame)
    with ProgressBar(resumes=False) as bar:
        tuning = fit(sequences, base=base, progress=bar.callback("tune"))
    write_atomic(out, json.dumps(tuning.options.model_dump(), indent=2).encode())
    if as_json:
        print_json({"out": str(out), **tuning.model_dump(), "spread": tuning.spread()})
        return
    _show_tuning(tuning, out)


def _show_tuning(tuning: Tuning, out: Path) -> None:
    echo("left out             IDF1  default    HOTA  default  switches  default")
    for fold in tuning.folds:
        tuned, default = fold.tuned, fold.default
        echo(
            f"{fold.sequence[:20]:<20} {tuned.idf1:5.3f}    {default.idf1:5.3f}   "
            f"{tuned.hota:5.3f}    {default.hota:5.3f}  {tuned.switches:8}  {default.switches:7}"
        )
    spread = tuning.spread()
    for name, (mean, deviation) in spread.items():
        fitted = getattr(tuning.options, name, None)
        shown = "" if fitted is None else f", fitted to all {fitted:g}"
        echo(f"  {name:<16} {mean:.3f} +- {deviation:.3f}{shown}")
    if spread["idf1"][0] <= spread["idf1_default"][0]:
        warn("on sequences it has not seen the default does as well; keep it")
    echo(f"{out}: use it with onepass link RUN --options {out}")


def _show(summary: Any, as_json: bool, line: str) -> None:
    if as_json:
        print_json(asdict(summary))
    else:
        echo(line)


def _warn_of_missing(
    missing: Mapping[str, int], consequence: str, run: Path, images: list[str] | None
) -> None:
    from pipelines.run import Run as OpenedRun  # late: Arrow takes half a second

    if missing:
        where = OpenedRun.open(run, read_pairs(images)).where_images_are
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(missing.items()))
        warn(f"{sum(missing.values())} images cannot be read ({kinds}), {consequence}; {where}")
