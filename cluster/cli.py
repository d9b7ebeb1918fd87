"""The command of this room: ``submit``."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.console import say

app = typer.Typer()


# What stands after ``--`` is another onepass command; it is parsed on the cluster, not here.
@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    address: Annotated[str, typer.Option(help="The cluster's dashboard, http://HOST:8265.")],
) -> None:
    """Run an onepass command on a Ray cluster, follow its log, return its exit code.

    A token-protected cluster needs RAY_AUTH_MODE=token and the token here as well. Paths
    are the cluster's: give absolute ones, on storage that every node sees.

    Example: onepass submit --address http://head:8265 -- extract /data --model lite0 --out /runs/a
    """
    from cluster.submit import run_job

    ended = run_job(address, context.args, log=lambda text: typer.echo(text, nl=False))
    say(f"job {ended.job_id}: {ended.status}" + (f" ({ended.message})" if ended.message else ""))
    if ended.status != "SUCCEEDED":
        raise typer.Exit(1)
