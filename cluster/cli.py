"""The commands of this room: ``submit`` and ``job``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.console import Json, print_json, say

if TYPE_CHECKING:
    from cluster.jobs import Ended

app = typer.Typer()
job = typer.Typer(
    help="Look at, follow and stop what was submitted to a Ray cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(job, name="job")

Address = Annotated[str, typer.Option(help="The cluster's dashboard, http://HOST:8265.")]
JobId = Annotated[str, typer.Argument(help="As 'submit' printed it, or 'job list'.")]


def _to_stdout(text: str) -> None:
    typer.echo(text, nl=False)


def _to_stderr(text: str) -> None:
    typer.echo(text, nl=False, err=True)


# What stands after ``--`` is another onepass command; it is parsed on the cluster, not here.
@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    address: Address,
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

    Example: onepass submit --address http://head:8265 -- extract /data --model lite0 --out /runs/a
    """
    from cluster.jobs import by_hand
    from cluster.submit import run_job
    from cluster.submit import submit as send

    if wait:
        log = _to_stderr if as_json else _to_stdout
        _finish(run_job(address, context.args, env=env or (), log=log), as_json)
        return
    job_id = send(address, context.args, env=env or ())
    if as_json:
        print_json({"job_id": job_id, "address": address})
    else:
        say(f"job {job_id} is submitted; {by_hand(address, job_id)}")


@job.command(name="list")
def list_command(address: Address, as_json: Json = False) -> None:
    """The jobs that a cluster knows, the oldest first.

    Example: onepass job list --address http://head:8265
    """
    from dataclasses import asdict

    from cluster.jobs import list_jobs

    jobs = list_jobs(address)
    if as_json:
        print_json([asdict(each) for each in jobs])
        return
    for each in jobs:
        say(f"{each.job_id}  {each.status:<9}  {each.started or '-':<20}  {each.command}")
    if not jobs:
        say("no jobs")


@job.command()
def status(job_id: JobId, address: Address, as_json: Json = False) -> None:
    """Whether a job runs, and how it ended.

    Example: onepass job status raysubmit_x --address http://head:8265
    """
    from dataclasses import asdict

    from cluster.jobs import look_at

    found = look_at(address, job_id)
    if as_json:
        print_json(asdict(found))
        return
    ended = "" if found.exit_code is None else f", exit code {found.exit_code}"
    say(f"job {found.job_id}: {found.status}{ended}")
    say(f"  {found.command}")
    say(f"  started {found.started or '-'}, ended {found.ended or '-'}")
    if found.message:
        say(f"  {found.message}")


@job.command()
def logs(
    job_id: JobId,
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", help="To the job's end, and return its exit code.")
    ] = False,
) -> None:
    """What a job has printed.

    Example: onepass job logs raysubmit_x --follow --address http://head:8265
    """
    from cluster import jobs

    if follow:
        _finish(jobs.follow(address, job_id, log=_to_stdout), as_json=False)
    else:
        jobs.print_logs(address, job_id, log=_to_stdout)


@job.command()
def stop(job_id: JobId, address: Address, as_json: Json = False) -> None:
    """Stop a job and wait until it has ended; the same command, submitted again, continues.

    Example: onepass job stop raysubmit_x --address http://head:8265
    """
    from dataclasses import asdict

    from cluster import jobs

    found = jobs.stop(address, job_id)
    if as_json:
        print_json(asdict(found))
    else:
        say(f"job {job_id}: {found.status}; the same command, submitted again, continues")


def _finish(ended: Ended, as_json: bool) -> None:
    """Say how a followed job ended, and end as it did."""
    from dataclasses import asdict

    if as_json:
        print_json(asdict(ended))
    else:
        why = f" ({ended.message})" if ended.message else ""
        say(f"job {ended.job_id}: {ended.status}{why}")
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)
