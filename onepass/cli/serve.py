"""The commands ``serve`` and ``demo``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from api.config import SERVER, ServeConfig
from common.json_models import configure
from common.progress import ProgressBar
from onepass.cli.config_options import with_config
from onepass.cli.console import Images, Json, echo, print_json, to_path

app = typer.Typer()


@app.command()
@with_config(ServeConfig, leave_out={"index", "limits", "live", "images", "allowed_host"})
def serve(
    index: Annotated[Path, typer.Argument(parser=to_path, help="An index folder.")],
    options: dict[str, Any],
    images: Images = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help=ServeConfig.model_fields["allowed_host"].description, rich_help_panel=SERVER
        ),
    ] = None,
) -> None:
    """Serve search, neighbours, crops, tracks and live linking over HTTP; documentation at /docs.

    Example: onepass serve photos.index --port 8000
    """
    config = configure(
        ServeConfig,
        index=index,
        images=images or (),
        allowed_host=allowed_host or (),
        **options,
    )
    # FAISS's threads would spin between two searches, on cores that answer requests.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # late: FastAPI and FAISS take a second, and read OMP_WAIT_POLICY when they are loaded
    if config.ray:
        from api.ray_serve.serve import serve_on_ray  # late

        serve_on_ray(config)
    else:
        from api.server import serve as serve_here  # late

        serve_here(config)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-out"),
    cache: Annotated[Path, typer.Option(help="Folder for the downloaded clip.")] = Path(".cache"),
    as_json: Json = False,
) -> None:
    """A real clip of eight fish: boxes, one pass, index, tracks, pictures."""
    # late: torch takes seconds
    from onepass.demo import run_demo

    with ProgressBar(resumes=True):
        report = run_demo(out, cache, log=echo)
    if as_json:
        print_json(asdict(report))
