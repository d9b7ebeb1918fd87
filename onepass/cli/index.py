"""The commands of ``onepass index``: build, change and choose versions of an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.errors import InputError
from common.progress import ProgressBar
from onepass.cli.console import ExecutorOption, Json, echo, print_json, to_path, warn

if TYPE_CHECKING:
    from index.search.snapshot import Snapshot

app = typer.Typer(
    no_args_is_help=True,
    help="Build a vector index from runs, change it, choose the version that is served.",
)

Index = Annotated[Path, typer.Argument(parser=to_path, help="An index folder.")]
Memory = Annotated[
    str | None, typer.Option(help="What one process may use, as 2GB; half of the machine's.")
]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster to work on; large builds start Ray by themselves.")
]

_UNITS = {"": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


@app.command()
def build(
    runs: Annotated[list[Path], typer.Argument(parser=to_path, help="Finished runs of one model.")],
    out: Annotated[
        Path,
        typer.Option(parser=to_path, help="The index folder; a new version is added to it."),
    ],
    metric: Annotated[
        Literal["cosine", "ip", "l1", "l2"],
        typer.Option(help="Of L1-normalised embeddings: cosine, inner product, distances."),
    ] = "cosine",
    factory: Annotated[
        str,
        typer.Option(help="auto, Flat, HNSW32, PCA256,IVF1024,SQ8, or any FAISS factory string."),
    ] = "auto",
    recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="recall@10 that search is tuned to.")
    ] = 0.95,
    memory: Memory = None,
    shards: Annotated[
        int, typer.Option(min=1, help="Parts that 'onepass serve --ray' searches side by side.")
    ] = 1,
    executor: ExecutorOption = "auto",
    address: Address = None,
    beside: Annotated[
        bool,
        typer.Option(
            "--beside",
            help="Go on serving the current version; this one, of any model, waits for promote.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Build a searchable version and measure its recall on held-out queries.

    Example: onepass index build runs/first --out photos.index
    """
    from index.build.version import build_index

    with ProgressBar(resumes=False) as bar:
        snapshot = build_index(
            runs,
            out,
            metric=metric,
            factory=factory,
            recall=recall,
            shards=shards,
            memory_bytes=_bytes(memory),
            executor=executor,
            address=address,
            beside=beside,
            progress=bar.counted("index"),
        )
    _show_result(snapshot, as_json=as_json)
    if not as_json and beside:
        echo(f"next: onepass index promote {out} {snapshot.manifest.version}")
    elif not as_json:
        echo(f"next: onepass query {out} --id DETECTION_ID   or: onepass serve {out}")


@app.command()
def add(
    index: Index,
    runs: Annotated[
        list[Path], typer.Argument(parser=to_path, help="Finished runs of the index's model.")
    ],
    memory: Memory = None,
    executor: ExecutorOption = "auto",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Publish a version that also holds the rows of more runs; costs what is new.

    Example: onepass index add photos.index runs/second
    """
    from index.build.update import add_runs

    with ProgressBar(resumes=False) as bar:
        snapshot = add_runs(
            index,
            runs,
            memory_bytes=_bytes(memory),
            executor=executor,
            address=address,
            progress=bar.counted("index"),
        )
    _show_result(snapshot, as_json=as_json)


@app.command()
def delete(
    index: Index,
    where: Annotated[
        str | None, typer.Option(help="Rows that fit, as: \"sequence = 'trap-4'\".")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="A file of detection ids, one a line.")] = None,
    as_json: Json = False,
) -> None:
    """Publish a version without some rows; no file of vectors is written.

    Example: onepass index delete photos.index --where "label = 'background'"
    """
    from index.build.update import delete_rows
    from index.search.filters import Filter

    if where is None and ids is None:
        raise InputError("say which rows: --where \"label = 'background'\" or --ids FILE")
    with ProgressBar(resumes=False):
        snapshot, gone = delete_rows(index, Filter(where, read_ids(ids)))
    if not as_json:
        said = "rows deleted" if gone else "rows fit, so nothing was published"
        echo(f"{gone or 'no'} {said}")
    _show_result(snapshot, as_json=as_json)


@app.command()
def compact(
    index: Index,
    memory: Memory = None,
    executor: ExecutorOption = "auto",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Publish a version of the same rows, built anew from the runs: one part, no tombstones.

    Example: onepass index compact photos.index
    """
    from index.build.update import compact as fold

    with ProgressBar(resumes=False) as bar:
        snapshot = fold(
            index,
            memory_bytes=_bytes(memory),
            executor=executor,
            address=address,
            progress=bar.counted("index"),
        )
    _show_result(snapshot, as_json=as_json)


@app.command("list")
def list_(index: Index, as_json: Json = False) -> None:
    """The versions that stand, oldest first; the one that is served is marked.

    Example: onepass index list photos.index
    """
    from index.build.versions import history, version_bytes

    found = history(index)
    if as_json:
        print_json(
            [
                {"current": one.current, "bytes": version_bytes(index, one.manifest)}
                | one.manifest.model_dump(mode="json")
                for one in found
            ]
        )
        return
    for one in found:
        made = one.manifest
        echo(
            f"{'*' if one.current else ' '} {made.version}  {made.created}  {made.made_by:<7}  "
            f"{made.rows} rows, {made.deleted} deleted, {len(made.segments)} "
            f"part{'s' if len(made.segments) > 1 else ''}, {made.factory}, "
            f"{version_bytes(index, made) / 2**20:.1f} MiB, {made.model.request.spec}"
        )


@app.command()
def promote(
    index: Index,
    version: Annotated[str, typer.Argument(help="As 'onepass index list' names it.")],
    as_json: Json = False,
) -> None:
    """Serve another version from now on, once its files are verified.

    Example: onepass index promote photos.index v0001
    """
    from index.build.versions import promote as serve

    with ProgressBar(resumes=False):
        snapshot = serve(index, version)
    _show_result(snapshot, as_json=as_json)


@app.command()
def rollback(index: Index, as_json: Json = False) -> None:
    """Serve the version before the current one.

    Example: onepass index rollback photos.index
    """
    from index.build.versions import rollback as back

    with ProgressBar(resumes=False):
        snapshot = back(index)
    _show_result(snapshot, as_json=as_json)


@app.command()
def prune(
    index: Index,
    keep: Annotated[int, typer.Option(min=1, help="Newest versions to keep.")] = 3,
    as_json: Json = False,
) -> None:
    """Remove old versions and give their disk space back; never the one that is served.

    Example: onepass index prune photos.index --keep 2
    """
    from index.build.versions import prune as remove

    with ProgressBar(resumes=False):
        gone = remove(index, keep)
    if as_json:
        print_json({"removed": gone})
        return
    echo(f"removed: {', '.join(gone) if gone else 'nothing'}")


def read_ids(file: Path | None) -> frozenset[str] | None:
    """Detection ids of a file, one a line.

    Raises:
        InputError: it cannot be read, or names none.
    """
    if file is None:
        return None
    try:
        found = frozenset(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--ids {file} cannot be read: {error}") from None
    if not found:
        raise InputError(f"--ids {file} names no detection; give one id a line")
    return found


def show_index(snapshot: Snapshot, *, verified: bool, as_json: bool) -> None:
    """What an index is made of, for people or machines."""
    manifest = snapshot.manifest
    if as_json:
        print_json({"verified": verified, **manifest.model_dump(mode="json")})
        return
    recall = manifest.recall
    measured = "not measured" if recall.measured is None else f"{recall.measured:.3f}"
    echo(f"index {snapshot.path}: {manifest.rows} vectors of {manifest.dim}, {manifest.metric}")
    echo(f"  factory      {manifest.factory} {manifest.largest.search_params or ''}")
    echo(f"  recall@{recall.k}    {measured} on {recall.queries} held-out queries")
    if recall.filtered:
        under = ", ".join(f"{value:.3f} of {share}" for share, value in recall.filtered.items())
        echo(f"  filtered     {under} of the rows")
    parts, gone = len(manifest.segments), manifest.deleted
    if parts > 1 or gone:
        echo(f"  made of      {parts} part{'s' if parts > 1 else ''}, {gone} rows deleted")
    echo(f"  fingerprint  {manifest.fingerprint[:16]} ({manifest.model.request.spec})")
    if verified:
        files = len(manifest.files) + sum(len(one.files) for one in manifest.segments)
        echo(f"verified: {files} files")


def _show_result(snapshot: Snapshot, *, as_json: bool) -> None:
    if snapshot.manifest.warning:
        warn(snapshot.manifest.warning)
    show_index(snapshot, verified=False, as_json=as_json)


def _bytes(text: str | None) -> int | None:
    """A size as people write it.

    Raises:
        InputError: it is none.
    """
    if text is None:
        return None
    upper = text.strip().upper()
    unit = next((unit for unit in ("KB", "MB", "GB", "TB") if upper.endswith(unit)), "")
    try:
        return int(float(upper.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise InputError(f"--memory {text}: give a size, as 2GB or 512MB") from None
