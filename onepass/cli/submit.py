"""The command ``submit``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from common.text import printable
from onepass.cli.console import Json, echo, print_json

app = typer.Typer()


# The words after ``--`` are another onepass command, which is parsed on the cluster.
@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    address: Annotated[str, typer.Option(help="The cluster's dashboard, http://HOST:8265.")],
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="Variable of the job: NAME, with its value here, or NAME=VALUE; again for more. "
            "Ray keeps it with the job: who has the cluster's token can read it."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="Follow the log to the end; --no-wait prints the job's id.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Run an onepass command on a Ray cluster, follow its log, return its exit code.

    A token-protected cluster needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here as well.
    Paths are the cluster's: give absolute ones, on storage that every node sees, or s3://.
    Later: ray job list, status, logs and stop, with the same --address.

    Example: onepass submit --address http://head:8265 -- extract /data --model lite0 --out /runs/a
    """
    from cluster import submit as job  # late: like all commands' work

    client, job_id = job.submit(address, context.args, env=env or ())
    if not wait:
        if as_json:
            print_json({"job_id": job_id, "address": address})
        else:
            echo(f"job {job_id} is submitted; {job.next_steps(address, job_id)}")
        return

    def show(text: str) -> None:
        lines = text.split("\n")  # the last one may go on in the next text
        typer.echo("\n".join(map(printable, lines)), nl=False, err=as_json)

    ended = job.follow(client, address, job_id, log=show)
    if as_json:
        print_json(asdict(ended))
    else:
        message = f" ({ended.message})" if ended.message else ""
        echo(f"job {job_id}: {ended.status}{message}")
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)
