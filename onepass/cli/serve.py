"""The commands ``serve`` and ``demo``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from common.errors import InputError
from common.progress import ProgressBar
from onepass.cli.console import Json, echo, print_json, to_path
from onepass.cli.extract import show_progress

app = typer.Typer()


@app.command()
def serve(
    index: Annotated[Path, typer.Argument(parser=to_path, help="An index folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Require one of its keys (one a line) in X-API-Key.")
    ] = None,
    log_json: Annotated[
        bool | None,
        typer.Option(help="Log lines as JSON; by default unless stderr is a terminal."),
    ] = None,
    link_state: Annotated[
        Path | None,
        typer.Option(
            help="File for the open tracks of live cameras, on a disk of this machine; "
            "by default INDEX/live/links.sqlite3."
        ),
    ] = None,
    link_preset: Annotated[
        Literal["default", "ami", "antenna"],
        typer.Option(help="How frames of live cameras are linked, as for onepass link --preset."),
    ] = "default",
    link_options: Annotated[
        Path | None, typer.Option(help="The same from a file, as for onepass link --options.")
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Serve on Ray: each part of the index is searched by its own process. Needs some "
            "15 s and 2 GB to start; if one process is enough, that is faster.",
        ),
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="With --ray: processes of each part (1).")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="With --ray: a cluster to join, whose nodes see the index.")
    ] = None,
) -> None:
    """Serve search, neighbours, crops, tracks and live linking over HTTP; documentation at /docs.

    Example: onepass serve photos.index --port 8000
    """
    if not ray and (replicas or address):
        given = f"--replicas {replicas}" if replicas else f"--address {address}"
        raise InputError(f"{given} needs --ray; without it one process serves, and Ray is not used")
    # late: NumPy, SQLite
    from onepass.cli.link import read_options
    from tracks.association.options import PRESETS
    from tracks.live.store import LINK_STATE

    if link_options is not None and link_preset != "default":
        raise InputError(
            f"--link-options {link_options} and --link-preset {link_preset}: give one of them"
        )
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "api_key_file": api_key_file,
        "log_json": log_json,
        "link_state": LINK_STATE if link_state is None else link_state.absolute(),
        "link_options": PRESETS[link_preset]
        if link_options is None
        else read_options(link_options, "--link-options"),
    }
    # FAISS's threads would spin between two searches, on cores that answer requests.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # late: FastAPI and FAISS take a second, and read OMP_WAIT_POLICY when they are loaded
    if ray:
        from api.ray_serve.serve import serve_on_ray

        serve_on_ray(index, replicas=replicas or 1, address=address, **options)
    else:
        from api.server import serve as serve_here

        serve_here(index, **options)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-out"),
    cache: Annotated[Path, typer.Option(help="Folder for the downloaded clip.")] = Path(".cache"),
    as_json: Json = False,
) -> None:
    """A real clip of eight fish: boxes, one pass, index, tracks, pictures."""
    from onepass.demo import run_demo  # late: torch

    with ProgressBar(resumes=True) as bar:
        report = run_demo(out, cache, log=echo, extraction=show_progress(bar))
    if as_json:
        print_json(asdict(report))
