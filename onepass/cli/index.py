"""The commands of ``onepass index``: build, change and choose versions of an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InputError
from common.json_models import configure
from common.moved import read_pairs
from common.progress import ProgressBar
from common.sizes import parse_size
from index.config import IndexConfig
from onepass.cli.config_options import with_config
from onepass.cli.console import ExecutorOption, Images, Json, echo, print_json, to_path, warn
from onepass.ids import describe_unknown, read_ids

if TYPE_CHECKING:
    from index.search.snapshot import Snapshot

app = typer.Typer(
    no_args_is_help=True,
    help="Build a vector index from runs or files, change it, choose the version that is served.",
)

Index = Annotated[Path, typer.Argument(parser=to_path, help="An index folder.")]
Memory = Annotated[
    str | None,
    typer.Option(help="Memory of one process, as 2GB; half of the machine's, if not given."),
]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster to work on; a large build starts Ray by itself.")
]

Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Refuse vectors that are zero or not finite, which are left out otherwise."
    ),
]

IdColumn = Annotated[
    str | None,
    typer.Option(help="Of files: the column with the ids; detection_id or id, if not given."),
]
Model = Annotated[
    str | None,
    typer.Option(help="Of files: what made the vectors; those of two names share no index."),
]


@app.command()
@with_config(IndexConfig)
def build(
    runs: Annotated[
        list[Path],
        typer.Argument(
            parser=to_path,
            help="Finished runs of one model, or files of vectors: Parquet, Arrow, .npy, HDF5.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(parser=to_path, help="The index folder; a new version is added to it."),
    ],
    *,
    options: dict[str, Any],
    memory: Memory = None,
    images: Images = None,
    executor: ExecutorOption = "auto",
    address: Address = None,
    candidate: Annotated[
        bool,
        typer.Option(
            "--candidate",
            help="Keep serving the current version; promote serves this one, of any model.",
        ),
    ] = False,
    strict: Strict = False,
    id_column: IdColumn = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Build a searchable version and measure its recall on held-out queries.

    Example: onepass index build runs/first --out photos.index
    Example: onepass index build vectors.parquet --id-column key --out vectors.index
    """
    from index.build.version import build_index  # late: FAISS takes a second

    with ProgressBar(resumes=False) as bar:
        snapshot = build_index(
            runs,
            out,
            configure(IndexConfig, **options),
            memory_bytes=parse_size(memory),
            pairs=read_pairs(images),
            executor=executor,
            address=address,
            candidate=candidate,
            strict=strict,
            id_column=id_column,
            model_name=model,
            progress=bar.callback("index"),
        )
    _show_notes(snapshot)
    _show_result(snapshot, as_json=as_json)
    if not as_json and candidate:
        echo(f"next: onepass index promote {out} {snapshot.manifest.version}")
    elif not as_json:
        echo(f"next: onepass query {out} --id DETECTION_ID   or: onepass serve {out}")


@app.command()
def add(
    index: Index,
    runs: Annotated[
        list[Path],
        typer.Argument(parser=to_path, help="Finished runs of the index's model, or files."),
    ],
    memory: Memory = None,
    images: Images = None,
    executor: ExecutorOption = "auto",
    address: Address = None,
    strict: Strict = False,
    id_column: IdColumn = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Publish a version that also holds the rows of more runs; only these are indexed.

    Example: onepass index add photos.index runs/second
    """
    from index.build.update import add_runs  # late: FAISS takes a second

    with ProgressBar(resumes=False) as bar:
        snapshot = add_runs(
            index,
            runs,
            memory_bytes=parse_size(memory),
            pairs=read_pairs(images),
            executor=executor,
            address=address,
            strict=strict,
            id_column=id_column,
            model_name=model,
            progress=bar.callback("index"),
        )
    _show_notes(snapshot)
    _show_result(snapshot, as_json=as_json)


@app.command()
def delete(
    index: Index,
    where: Annotated[
        str | None, typer.Option(help="Rows that match, as: \"sequence = 'trap-4'\".")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="A file of detection ids, one a line.")] = None,
    as_json: Json = False,
) -> None:
    """Publish a version without some rows; vectors are not written again.

    Example: onepass index delete photos.index --where "label = 'background'"
    """
    # late: FAISS takes a second
    from index.build.update import delete_rows
    from index.search.filters import Filter
    from index.search.snapshot import Snapshot

    if where is None and ids is None:
        raise InputError("say which rows: --where \"label = 'background'\" or --ids FILE")
    filter = Filter(where, read_ids(ids))
    with ProgressBar(resumes=False):
        before = Snapshot.open(index)
        snapshot, deleted = delete_rows(index, filter)
    for text in describe_unknown(before, filter.ids):
        warn(text)
    if not as_json:
        echo(f"{deleted} rows deleted" if deleted else "no rows match, so nothing was published")
    _show_result(snapshot, as_json=as_json)


@app.command()
def compact(
    index: Index,
    memory: Memory = None,
    images: Images = None,
    executor: ExecutorOption = "auto",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Publish a version of the same rows, built anew from the runs, without deleted rows.

    Example: onepass index compact photos.index
    """
    from index.build.update import compact as compact_index  # late: FAISS takes a second

    with ProgressBar(resumes=False) as bar:
        snapshot = compact_index(
            index,
            memory_bytes=parse_size(memory),
            pairs=read_pairs(images),
            executor=executor,
            address=address,
            progress=bar.callback("index"),
        )
    _show_result(snapshot, as_json=as_json)


@app.command("list")
def list_(index: Index, as_json: Json = False) -> None:
    """List the versions, oldest first; a star marks the one that is served.

    Example: onepass index list photos.index
    """
    from index.build.versions import history, version_bytes  # late: FAISS takes a second

    versions = history(index)
    if as_json:
        print_json(
            [
                {"current": entry.current, "bytes": version_bytes(index, entry.manifest)}
                | entry.manifest.model_dump(mode="json")
                for entry in versions
            ]
        )
        return
    for entry in versions:
        manifest = entry.manifest
        echo(
            f"{'*' if entry.current else ' '} {manifest.version}  {manifest.created}  "
            f"{manifest.made_by:<7}  {manifest.rows} rows, {manifest.deleted} deleted, "
            f"{len(manifest.segments)} segment{'s' if len(manifest.segments) > 1 else ''}, "
            f"{manifest.factory}, {version_bytes(index, manifest) / 2**20:.1f} MiB, "
            f"{manifest.model_name}"
        )


@app.command()
def promote(
    index: Index,
    version: Annotated[str, typer.Argument(help="A version, as 'onepass index list' prints it.")],
    as_json: Json = False,
) -> None:
    """Serve another version from now on, once its files are verified.

    Example: onepass index promote photos.index v0001
    """
    from index.build.versions import promote as promote_version  # late: FAISS takes a second

    with ProgressBar(resumes=False):
        snapshot = promote_version(index, version)
    _show_result(snapshot, as_json=as_json)


@app.command()
def rollback(index: Index, as_json: Json = False) -> None:
    """Serve the version before the current one.

    Example: onepass index rollback photos.index
    """
    from index.build.versions import rollback as roll_back  # late: FAISS takes a second

    with ProgressBar(resumes=False):
        snapshot = roll_back(index)
    _show_result(snapshot, as_json=as_json)


@app.command()
def prune(
    index: Index,
    keep: Annotated[int, typer.Option(min=1, help="Newest versions to keep.")] = 3,
    as_json: Json = False,
) -> None:
    """Remove old versions and free their disk space; never the one that is served.

    Example: onepass index prune photos.index --keep 2
    """
    from index.build.versions import prune as prune_versions  # late: FAISS takes a second

    with ProgressBar(resumes=False):
        removed = prune_versions(index, keep)
    if as_json:
        print_json({"removed": removed})
        return
    echo(f"removed: {', '.join(removed) or 'nothing'}")


def show_index(snapshot: Snapshot, *, verified: bool, as_json: bool) -> None:
    """Print a version of an index.

    Args:
        snapshot: the version.
        verified: whether its files were checked, which is shown.
        as_json: as JSON, else as lines.
    """
    manifest = snapshot.manifest
    if as_json:
        print_json({"verified": verified, **manifest.model_dump(mode="json")})
        return
    recall = manifest.recall
    measured = "not measured" if recall.measured is None else f"{recall.measured:.3f}"
    echo(f"index {snapshot.path}: {manifest.rows} vectors of {manifest.dim}, {manifest.metric}")
    echo(f"  factory      {manifest.factory} {manifest.largest.search_params or ''}")
    how = f"on {recall.queries} rows that occur once" if recall.queries else "every row is compared"
    echo(f"  recall@{recall.k}    {measured}, {how}")
    if recall.by_k:
        echo(
            "  for k        " + ", ".join(f"{value:.3f} at {k}" for k, value in recall.by_k.items())
        )
    if recall.filtered:
        recalls = ", ".join(f"{value:.3f} of {share}" for share, value in recall.filtered.items())
        echo(f"  filtered     {recalls} of the rows")
    segments, deleted = len(manifest.segments), manifest.deleted
    if segments > 1 or deleted:
        plural = "s" if segments > 1 else ""
        echo(f"  made of      {segments} segment{plural}, {deleted} rows deleted")
    echo(f"  fingerprint  {manifest.fingerprint[:16]} ({manifest.model_name})")
    if verified:
        files = len(manifest.files) + sum(len(segment.files) for segment in manifest.segments)
        echo(f"verified: {files} files")


def _show_notes(snapshot: Snapshot) -> None:
    """Warn of what a build or an addition left out."""
    for note in snapshot.manifest.notes:
        warn(note)


def _show_result(snapshot: Snapshot, *, as_json: bool) -> None:
    if snapshot.manifest.warning:
        warn(snapshot.manifest.warning)
    show_index(snapshot, verified=False, as_json=as_json)
