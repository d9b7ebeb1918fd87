"""The command ``tracks tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.console import Json, here, print_json, say, warn
from cluster.errors import InputError
from cluster.progress import Bar

if TYPE_CHECKING:
    from index.tracks.tune import Tuning

app = typer.Typer()


@app.command()
def tune(
    run: Annotated[
        Path, typer.Argument(parser=here, help="A finished run of two or more labelled sequences.")
    ],
    out: Annotated[
        Path, typer.Option(parser=here, help="The options, a file for onepass link --options.")
    ],
    truth: Annotated[
        Path | None,
        typer.Option(
            parser=here, help="A folder of MOTChallenge files, as for onepass tracks evaluate."
        ),
    ] = None,
    truth_column: Annotated[
        str | None, typer.Option(help="Or: a column of the run that names the individual.")
    ] = None,
    first_frame: Annotated[
        int, typer.Option(help="Number in the truth of the frame that the run counts as 0.")
    ] = 1,
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
    import json
    from dataclasses import asdict, replace

    from index.linking.options import PRESETS
    from index.tracks.labels import labelled_by_column, labelled_by_truth
    from index.tracks.tune import tune as fit
    from pipelines.records import write_atomic

    if (truth is None) == (truth_column is None):
        raise InputError("give exactly one of --truth and --truth-column")
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out} is a folder; give a file")
    base = PRESETS["default"]
    if max_gap_frames is not None:
        base = replace(base, max_gap_frames=max_gap_frames)
    if truth is not None:
        sequences = labelled_by_truth(run, truth, first_frame=first_frame)
    else:
        assert truth_column is not None
        sequences = labelled_by_column(run, truth_column)
    with Bar(resumes=False) as bar:
        tuned = fit(sequences, base=base, progress=bar.counted("tune"))
    write_atomic(out, json.dumps(asdict(tuned.options), indent=2).encode())
    if as_json:
        print_json({"out": str(out), **asdict(tuned), "spread": tuned.spread()})
        return
    _say_tuned(tuned, out)


def _say_tuned(tuned: Tuning, out: Path) -> None:
    say("left out             IDF1  default    HOTA  default  switches  default")
    for fold in tuned.folds:
        one, other = fold.tuned, fold.default
        say(
            f"{fold.sequence[:20]:<20} {one.idf1:5.3f}    {other.idf1:5.3f}   {one.hota:5.3f}    "
            f"{other.hota:5.3f}  {one.switches:8}  {other.switches:7}"
        )
    spread = tuned.spread()
    for name, (mean, deviation) in spread.items():
        fitted = getattr(tuned.options, name, None)
        shown = "" if fitted is None else f", fitted to all {fitted:g}"
        say(f"  {name:<16} {mean:.3f} +- {deviation:.3f}{shown}")
    if spread["idf1"][0] <= spread["idf1_default"][0]:
        warn("on sequences it has not seen the default does as well; keep it")
    say(f"{out}: use it with onepass link RUN --options {out}")
