"""The command ``detect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from common.json_models import configure
from common.moved import read_pairs
from common.progress import ProgressBar
from onepass.cli.config_options import with_config
from onepass.cli.console import Images, Json, echo, local_path, print_json, warn
from pipelines.detected.config import DetectConfig

app = typer.Typer()


@app.command()
@with_config(DetectConfig, leave_out={"source"})
def detect(
    source: Annotated[str, typer.Argument(help=DetectConfig.model_fields["source"].description)],
    *,
    out: Annotated[
        Path,
        typer.Option(parser=local_path, help="A new folder; the same command continues it."),
    ],
    options: dict[str, Any],
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Find the boxes of every image, for extract.

    An image without boxes is kept as one without, and one that cannot be read as an error. Boxes are
    in pixels as they are stored, before EXIF turns the image.

    Example: onepass detect photos/ --detector ami:2023 --checkpoint detector.pth --out boxes
    """
    config = configure(DetectConfig, source=source, **options)
    from pipelines.detectors.detect import detect as detect_source  # late: torch takes seconds

    notes: list[str] = []
    with ProgressBar(resumes=True) as bar:
        found = detect_source(
            config,
            out,
            pairs=read_pairs(images),
            report=bar.update,
            note=notes.append,
        )
    counts = found.manifest
    if as_json:
        record = counts.model_dump(
            mode="json", include={"images", "boxes", "empty", "failed", "detector"}
        )
        print_json({"detections": str(out), **record, "source_notes": notes})
        return
    for text in notes:
        warn(text)
    echo(
        f"{out}: {counts.boxes} boxes in {counts.images} images"
        + (f", {counts.empty} without" if counts.empty else "")
        + (f", {counts.failed} failed (see the column error)" if counts.failed else "")
    )
    echo(f"next: onepass extract {out} --model MODEL --out RUN")
