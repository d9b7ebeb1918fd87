"""The command line: parse, call one function, show what it did.

Nothing heavy is imported at the top: ``onepass --help`` must answer at once, so torch, Ray
and FAISS are imported by the command that needs them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cluster.errors import InputError, OnepassError, StalledError, StoppedError

if TYPE_CHECKING:
    from index.snapshot import Snapshot
    from pipelines.extract import Outcome, Progress
    from pipelines.run import Run

app = typer.Typer(
    name="onepass",
    help="Read every image once, run the network once, keep class and embedding.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with 'onepass demo'. Exit codes: 0 done, 1 failed work, 2 bad input.",
)
index_app = typer.Typer(no_args_is_help=True, help="Build a vector index from runs.")
app.add_typer(index_app, name="index")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option(help="Show tracebacks instead of one line.")] = False,
) -> None:
    context.obj = {"debug": debug}


@app.command()
def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images, or a manifest (.parquet, .csv, .jsonl) with a column "
            "'image' and, if you have boxes, x1 y1 x2 y2 in pixels."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="lite0 (EfficientNet-Lite0, ImageNet classes, no download), timm:NAME, or "
            "tiny (for trying things out)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run folder; the same command continues it.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Weights for timm:NAME (a state dict).")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Class names: one a line, or JSON {name: index}.")
    ] = None,
    pretrained: Annotated[bool, typer.Option(help="Fetch timm:NAME's weights.")] = False,
    hdf5: Annotated[bool, typer.Option("--hdf5", help="Also write features.h5.")] = False,
    logits: Annotated[bool, typer.Option("--logits", help="Also keep all logits.")] = False,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="auto: half precision only where the hardware is faster in it."),
    ] = "auto",
    input_size: Annotated[
        int | None, typer.Option(help="Pixels a side, if not the model's.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Three numbers 0..1, as 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Three numbers 0..1, as 0.5,0.5,0.5.")] = None,
    interpolation: Annotated[Literal["bilinear", "bicubic"] | None, typer.Option()] = None,
    resize: Annotated[
        Literal["squash", "crop", "pad"] | None,
        typer.Option(help="squash ignores the aspect ratio, crop keeps the centre, pad fits in."),
    ] = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 32,
    stall_seconds: Annotated[
        float, typer.Option(min=1, help="Give up, loudly, when no row moves for this long.")
    ] = 300,
    as_json: Json = False,
) -> None:
    """Class and embedding of every image or box, in one forward pass.

    An image that cannot be read becomes a row with an error, never a missing row. Runs on
    the cluster of RAY_ADDRESS where that is set, else on this machine.

    Example: onepass extract photos/ --model lite0 --out runs/first --hdf5
    """
    from pipelines.extract import Options
    from pipelines.extract import extract as run_extract
    from pipelines.run import ModelRequest

    request = ModelRequest(
        spec=model,
        checkpoint=str(Path(checkpoint).resolve()) if checkpoint else None,
        labels=str(Path(labels).resolve()) if labels else None,
        pretrained=pretrained,
        input_size=input_size,
        mean=_three(mean, "--mean"),
        std=_three(std, "--std"),
        interpolation=interpolation,
        resize=resize,
    )
    chosen = Options(
        precision=precision,
        logits=logits,
        hdf5=hdf5,
        batch_rows=batch_rows,
        stall_seconds=stall_seconds,
    )
    with _Bar() as bar:
        outcome = run_extract(source, request, out, chosen, report=bar.extraction)
    manifest = outcome.run.manifest
    if as_json:
        _print_json(
            {
                "run": str(out),
                "already_finished": outcome.already_finished,
                "resumed_rows": outcome.resumed_rows,
                "first_answer_seconds": outcome.first_answer_seconds,
                "skipped_files": outcome.skipped_files,
                **manifest.model_dump(mode="json", exclude={"files"}),
            }
        )
        return
    _say_extracted(outcome)


def _say_extracted(outcome: Outcome) -> None:
    run, manifest = outcome.run, outcome.run.manifest
    rows = manifest.rows
    if outcome.already_finished:
        _say(f"{run.path} is finished already: {rows.written} rows; nothing to do")
        return
    if manifest.model.weights.startswith("random"):
        _warn(
            f"{manifest.model.request.spec} has random weights: classes and embeddings mean "
            "nothing; give --checkpoint FILE or --pretrained"
        )
    if outcome.skipped_files:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in sorted(outcome.skipped_files.items()))
        _warn(f"files that are not images were left out: {kinds}")
    audit = manifest.precision_audit
    if audit is not None and audit.cosine_min < 0.99:
        _warn(
            f"{manifest.precision} moves embeddings (cosine to fp32 {audit.cosine_min:.3f} at "
            "worst); --precision fp32 is slower and exact"
        )
    again = f", {outcome.resumed_rows} of them from before" if outcome.resumed_rows else ""
    model = manifest.model
    _say(
        f"{run.path}: {rows.written} rows{again}, {rows.failed} with errors, in "
        f"{manifest.seconds:.1f} s ({(rows.written - outcome.resumed_rows) / manifest.seconds:.0f} "
        f"images/s with start-up)"
    )
    _say(
        f"  {model.request.spec}, {manifest.precision}: {model.num_classes} classes, "
        f"{model.feature_dim}-d embeddings"
        + (f", cosine to fp32 {audit.cosine_mean:.4f}" if audit else "")
    )
    for kind, count in sorted(manifest.errors.items(), key=lambda item: -item[1]):
        _say(f"  {count} x {kind}")
    _say(f"next: onepass index build {run.path} --out INDEX   or: onepass link {run.path}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A run or an index.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every file's sha256 and every row.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What a run or an index is made of, and whether it is intact."""
    if (path / "CURRENT").is_file():
        from index.snapshot import Snapshot

        snapshot = Snapshot.open(path)
        if verify:
            snapshot.verify()
        _show_index(snapshot, verified=verify, as_json=as_json)
        return
    from pipelines.run import Run

    run = Run.open(path)
    if verify:
        run.verify()
    _show_run(run, verified=verify, as_json=as_json)


def _show_run(run: Run, *, verified: bool, as_json: bool) -> None:
    manifest = run.manifest
    if as_json:
        _print_json({"verified": verified, **manifest.model_dump(mode="json")})
        return
    model = manifest.model
    _say(f"run {run.path}: {manifest.rows.written} rows, {manifest.rows.failed} with errors")
    _say(f"  source       {manifest.source}")
    _say(f"  model        {model.request.spec}, weights {model.weights}")
    _say(f"  fingerprint  {manifest.fingerprint[:16]}")
    _say(f"  embedding    {model.feature_dim}-d {model.feature_kind}, {model.num_classes} classes")
    _say(
        f"  input        {model.preprocess.input_size[0]}x{model.preprocess.input_size[1]} "
        f"{model.preprocess.resize}, {model.preprocess.interpolation}"
    )
    _say(f"  precision    {manifest.precision}, {manifest.engine}")
    for kind, count in manifest.errors.items():
        _say(f"  error        {count} x {kind}")
    if verified:
        _say(f"verified: {len(manifest.files)} files, each row exactly once")


def _show_index(snapshot: Snapshot, *, verified: bool, as_json: bool) -> None:
    manifest = snapshot.manifest
    if as_json:
        _print_json({"verified": verified, **manifest.model_dump(mode="json")})
        return
    recall = manifest.recall
    measured = "not measured" if recall.measured is None else f"{recall.measured:.3f}"
    _say(f"index {snapshot.path}: {manifest.rows} vectors of {manifest.dim}, {manifest.metric}")
    _say(f"  factory      {manifest.factory} {manifest.search_params or ''}")
    _say(f"  recall@{recall.k}    {measured} on {recall.queries} held-out queries")
    _say(f"  fingerprint  {manifest.fingerprint[:16]} ({manifest.model.request.spec})")
    if verified:
        _say(f"verified: {len(manifest.files)} files")


@index_app.command("build")
def index_build(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs of one model.")],
    out: Annotated[Path, typer.Option(help="The index folder; a new version is added to it.")],
    metric: Annotated[
        Literal["cosine", "l1"],
        typer.Option(help="cosine: similarity; l1: distance of L1-normalised embeddings."),
    ] = "cosine",
    factory: Annotated[
        str, typer.Option(help="auto, Flat, HNSW32, or any FAISS factory string.")
    ] = "auto",
    recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="recall@10 that search is tuned to.")
    ] = 0.95,
    as_json: Json = False,
) -> None:
    """Build a searchable snapshot and measure its recall on held-out queries.

    Example: onepass index build runs/first --out photos.index
    """
    from index.build import build_index

    with _Bar() as bar:
        snapshot = build_index(
            runs, out, metric=metric, factory=factory, recall=recall, progress=bar.counted("index")
        )
    if snapshot.manifest.warning:
        _warn(snapshot.manifest.warning)
    _show_index(snapshot, verified=False, as_json=as_json)
    if not as_json:
        _say(f"next: onepass query {out} --id DETECTION_ID   or: onepass serve {out}")


@app.command()
def query(
    index: Annotated[Path, typer.Argument(help="An index folder.")],
    detection_id: Annotated[str | None, typer.Option("--id", help="A detection in it.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file, embedded now.")] = None,
    vector: Annotated[Path | None, typer.Option(help="An .npy file, [D].")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Brute force, for comparison.")] = False,
    as_json: Json = False,
) -> None:
    """The nearest detections to one of the index, an image, or a vector.

    Example: onepass query photos.index --image moth.jpg -k 5
    """
    from index.snapshot import Snapshot

    if sum(given is not None for given in (detection_id, image, vector)) != 1:
        raise InputError("give exactly one of --id, --image, --vector")
    snapshot = Snapshot.open(index)
    if detection_id is not None:
        hits = snapshot.neighbours(detection_id, k, exact=exact)
    else:
        raw = _embed_file(snapshot, image) if image is not None else _load_vector(vector)
        hits = snapshot.search(raw, k, exact=exact)
    found = snapshot.describe(hits)
    if as_json:
        _print_json({"metric": snapshot.manifest.metric, "hits": found})
        return
    for hit in found:
        box = "" if hit["box"] is None else " [" + " ".join(f"{v:.0f}" for v in hit["box"]) + "]"
        label = hit["label"] or ""
        _say(
            f"{hit['rank']:>3}  {hit['score']:.4f}  {hit['detection_id']}  {label}  "
            f"{hit['image']}{box}"
        )


def _embed_file(snapshot: Snapshot, file: Path) -> Any:
    from pipelines.embed import Embedder
    from pipelines.images import ImageError, read

    try:
        data = read(file)
        return Embedder.load(snapshot.manifest.model).embed_bytes(data).embedding[None]
    except ImageError as error:
        raise InputError(f"--image {file}: {error}") from None


def _load_vector(file: Path | None) -> Any:
    import numpy as np

    assert file is not None
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--vector {file} cannot be read as .npy: {error}") from None
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InputError(
            f"--vector {file} is {values.dtype} {values.shape}; give one vector of numbers, [D]"
        )
    return values.astype(np.float32)[None]


@app.command()
def link(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    preset: Annotated[
        str, typer.Option(help="default, or ami: the old greedy rule, for comparison.")
    ] = "default",
    max_cost: Annotated[float | None, typer.Option(help="Dearest link allowed.")] = None,
    max_gap_frames: Annotated[
        int | None, typer.Option(min=0, help="Frames a track may be lost for.")
    ] = None,
    max_gap_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds a track may be lost for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Link detections into tracks, one individual each, sequence by sequence.

    Example: onepass link runs/first
    """
    from dataclasses import asdict, replace

    from index.linking import PRESETS
    from index.tracks import link_run

    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: unknown; choose one of {', '.join(PRESETS)}")
    changes = {
        "max_cost": max_cost,
        "max_gap_frames": max_gap_frames,
        "max_gap_seconds": max_gap_seconds,
    }
    chosen = replace(PRESETS[preset], **{k: v for k, v in changes.items() if v is not None})
    with _Bar() as bar:
        summary = link_run(run, options=chosen, progress=bar.counted("link"))
    if as_json:
        _print_json(asdict(summary))
        return
    _say(
        f"{run}/tracks: {summary.tracks} tracks of {summary.detections} detections in "
        f"{summary.sequences} sequences, {summary.linked} links"
        + (f", {summary.left_out} left out (errors)" if summary.left_out else "")
    )


@app.command()
def serve(
    index: Annotated[Path, typer.Argument(help="An index folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve search, neighbours, crops and tracks over HTTP; documentation at /docs.

    Example: onepass serve photos.index --port 8000
    """
    from api.server import serve as run_server

    run_server(index, host=host, port=port)


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
    _say(f"job {ended.job_id}: {ended.status}" + (f" ({ended.message})" if ended.message else ""))
    if ended.status != "SUCCEEDED":
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that the demo makes.")] = Path(
        "demo-out"
    ),
    cache: Annotated[Path, typer.Option(help="Folder for the downloaded clip.")] = Path(".cache"),
    as_json: Json = False,
) -> None:
    """A real clip of eight fish: boxes, one pass, index, tracks, pictures."""
    from dataclasses import asdict

    from api.demo import run_demo

    with _Bar() as bar:
        report = run_demo(out, cache, say=_say, extraction=bar.extraction)
    if as_json:
        _print_json(asdict(report))


class _Bar:
    """Progress on stderr: a bar for people, a line now and then for logs."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._logged = time.monotonic()  # what ends, or fails, at once needs no progress

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        if kind is KeyboardInterrupt:  # said here, because Typer would only print "Aborted"
            raise StoppedError("stopped; the same command continues where it was") from None

    def extraction(self, progress: Progress) -> None:
        self.update(progress.stage, progress.done, progress.planned)

    def counted(self, name: str) -> Any:
        return lambda done, total: self.update(name, done, total)

    def update(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if name not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, visible=False)
            self._tasks[name] = self._progress.add_task(name, total=total, rate="")
        if done and name not in self._began:
            self._began[name] = (now, done)
        since, first = self._began.get(name, (now, done))
        rate = f"{(done - first) / (now - since):.0f}/s" if now - since > 1 else ""
        self._progress.update(self._tasks[name], completed=done, total=total, rate=rate)
        if not self._live and now - self._logged > 10:
            self._logged = now
            typer.echo(f"{name}: {done} of {total} {rate}".rstrip(), err=True)


def _three(text: str | None, option: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text}: give three numbers, as 0.5,0.5,0.5") from None
    if option == "--std" and min(a, b, c) <= 0:
        raise InputError(f"--std {text}: each must be above 0")
    return a, b, c


def _say(text: str) -> None:
    typer.echo(text)


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def main() -> None:
    """Run the command line; deliberate errors become one line and their exit code."""
    debug = "--debug" in sys.argv[1:2]
    try:
        app()
    except OnepassError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        _leave(error.exit_code, at_once=isinstance(error, StalledError | StoppedError))
    except OSError as error:  # a full disk, a folder without permission
        if debug:
            raise
        at = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {at}{error.strerror or error}; what is written is kept", err=True)
        _leave(1, at_once=True)


def _leave(code: int, *, at_once: bool) -> None:
    """Exit; ``at_once`` where a thread inside Ray would wake up and start Ray again."""
    sys.stdout.flush()
    sys.stderr.flush()
    if at_once:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
