"""The commands ``inspect`` and ``query``, and the groups of the other commands of indexes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InputError
from common.progress import ProgressBar
from onepass.cli import database as database_cli
from onepass.cli import index as index_cli
from onepass.cli import link as link_cli
from onepass.cli import migrate as migrate_cli
from onepass.cli import tracks as tracks_cli
from onepass.cli.console import Json, echo, print_json, to_path
from onepass.cli.flags import with_flags

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from index.search.snapshot import Snapshot
    from pipelines.outputs.hdf5_info import Hdf5Info
    from pipelines.progress.profile import SessionProfile
    from pipelines.run import Run

app = typer.Typer()
app.add_typer(index_cli.app, name="index")
app.add_typer(migrate_cli.app)
app.add_typer(link_cli.app)
app.add_typer(tracks_cli.app, name="tracks")
app.add_typer(database_cli.app, name="database")

_MAX_LETTERS = 80  # of an attribute; --json prints all


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            parser=to_path, help="A run, an index, or a file FEATURES.h5 of a run or of clips."
        ),
    ],
    picture: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PICTURE.png]",
            help="With --profile: file of the picture; NAME-profile.png, if not given.",
        ),
    ] = None,
    *,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Where the time of a run was spent, as text and a picture."),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every file's sha256 and every row.")
    ] = False,
    expect_dim: Annotated[
        int | None, typer.Option(min=1, help="Fail unless embeddings have this dimension.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe a run, an index or an HDF5 file, and check that it is intact.

    Example: onepass inspect features/train_features.h5 --expect-dim 1280
    """
    if picture is not None and not profile:
        raise InputError(
            f"{picture}: a picture needs --profile; give that as well, or only one path"
        )
    if profile:
        _show_profile(path, picture, as_json=as_json)
        return
    from common.storage import is_remote, storage_errors

    if not is_remote(path) and (
        path.is_file() or (path.suffix in (".h5", ".hdf5") and not path.is_dir())
    ):
        from pipelines.outputs.hdf5_info import read_h5, verify_h5

        facts = read_h5(path)
        _check_dim(path, facts.feature_dim, facts.backbone, expect_dim)
        compared = verify_h5(facts) if verify else None
        _show_h5(facts, compared=compared, as_json=as_json)
        return
    with storage_errors(path):
        is_index = (path / "CURRENT").is_file()
    if is_index:
        from index.search.snapshot import Snapshot

        with ProgressBar(resumes=True):
            snapshot = Snapshot.open(path)
        manifest = snapshot.manifest
        _check_dim(path, manifest.dim, manifest.model.request.spec, expect_dim)
        if verify:
            snapshot.verify()
        index_cli.show_index(snapshot, verified=verify, as_json=as_json)
        return
    from pipelines.run import Run

    run = Run.open(path)
    model = run.manifest.model
    _check_dim(path, model.feature_dim, model.request.spec, expect_dim)
    if verify:
        run.verify()
    _show_run(run, verified=verify, as_json=as_json)


def _check_dim(path: Path, dim: int, backbone: str, expected: int | None) -> None:
    if expected is not None and dim != expected:
        raise InputError(
            f"{path} holds {dim}-d embeddings of {backbone}, and --expect-dim is {expected}; give "
            "a file of the model whose embeddings are wanted"
        )


def _show_h5(facts: Hdf5Info, *, compared: int | None, as_json: bool) -> None:
    verified = compared is not None
    if as_json:
        from dataclasses import asdict

        print_json({"verified": verified, **asdict(facts)})
        return
    echo(f"{facts.path}: {'clips' if facts.kind == 'clips' else 'rows of a run'}")
    for name, value in facts.attributes.items():
        text = str(value)
        short = text if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 1] + "…"
        echo(f"  {name:<16} {short}")
    for dataset in facts.datasets:
        shape = " x ".join(map(str, dataset.shape))
        shards = f"{len(dataset.shards)} shard" + ("" if len(dataset.shards) == 1 else "s")
        echo(f"  {dataset.name:<16} {dataset.dtype} {shape}, in {shards}")
    if verified:
        checked = (
            f"{compared} files as in manifest.json" if compared else "no sha256 of them is known"
        )
        echo(f"verified: every value is there; {checked}")


def _show_run(run: Run, *, verified: bool, as_json: bool) -> None:
    manifest = run.manifest
    if as_json:
        print_json({"verified": verified, **manifest.model_dump(mode="json")})
        return
    model = manifest.model
    echo(f"run {run.path}: {manifest.rows.written} rows, {manifest.rows.failed} with errors")
    echo(f"  source       {manifest.source}")
    echo(f"  model        {model.request.spec}, weights {model.weights}")
    echo(f"  fingerprint  {manifest.fingerprint[:16]}")
    echo(f"  embedding    {model.feature_dim}-d {model.feature_kind}, {model.num_classes} classes")
    echo(
        f"  input        {model.preprocess.input_size[0]}x{model.preprocess.input_size[1]} "
        f"{model.preprocess.resize}, {model.preprocess.interpolation}, "
        f"mean {_numbers(model.preprocess.mean)}, std {_numbers(model.preprocess.std)}"
    )
    classifier = manifest.classifier or model
    if classifier.head is not None:
        echo(f"  classes by   head {classifier.request.head}")
    elif manifest.classifier is not None:
        echo(f"  classes by   {classifier.request.spec}")
    if manifest.gate is not None:
        gate = manifest.gate
        echo(
            f"  gate         {gate.model.spec} passes {gate.label} from {gate.threshold:g} on: "
            f"{manifest.rows.refused} rows did not pass"
        )
    for kept in classifier.maps:
        shape = " x ".join(map(str, kept.shape))
        echo(f"  kept         {kept.name}: {shape}, one cell for {kept.reduction or '?'} pixels")
    echo(f"  precision    {manifest.precision}, {manifest.engine}")
    for note in manifest.notes:
        echo(f"               {with_flags(note)}")
    for kind, count in manifest.errors.items():
        echo(f"  error        {count} x {kind}")
    if verified:
        echo(f"verified: {len(manifest.files)} files, each row exactly once")


def _show_profile(run: Path, picture: Path | None, *, as_json: bool) -> None:
    from common.storage import storage_errors
    from pipelines.progress.profile import draw_profile, sessions_of

    with storage_errors(run):
        sessions = sessions_of(run)
    if picture is None and not as_json:
        picture = Path(f"{run.resolve().name}-profile.png")
    if picture is not None:
        draw_profile(sessions, picture, title=str(run))
    if as_json:
        profiles = [session.profile.model_dump(mode="json") for session in sessions]
        print_json({"run": str(run), "picture": picture, "sessions": profiles})
        return
    for session in sessions:
        _show_session(session.profile)
    echo(f"picture: {picture}")


def _show_session(session: SessionProfile) -> None:
    """One session of a run: how it ended, where its time went, its errors."""
    from pipelines.progress.words import duration, where_the_time_went

    echo(
        f"session {session.session}: {session.outcome}, {session.rows} rows in "
        f"{duration(session.seconds)} on {session.host}"
        + (f", {session.rows_a_second:.0f}/s while at work" if session.rows_a_second else "")
    )
    if session.error:
        echo(f"  {session.error}")
    if session.stages:
        echo(f"  {where_the_time_went(session, session.seconds)}")
    for kind, rows in session.errors.items():
        echo(f"  error     {rows} x {kind}")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


@app.command()
def query(
    index: Annotated[Path, typer.Argument(parser=to_path, help="An index folder.")],
    detection_id: Annotated[str | None, typer.Option("--id", help="A detection in it.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file, embedded now.")] = None,
    vector: Annotated[Path | None, typer.Option(help="An .npy file, [D].")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="Only rows that match, as: \"label = 'moth' AND score >= 0.5\"."),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Only these ids: a file with one per line.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector.")] = False,
    as_json: Json = False,
) -> None:
    """Find the detections nearest to one of the index, an image, or a vector.

    Example: onepass query photos.index --image moth.jpg -k 5
    """
    from index.search.filters import Filter
    from index.search.snapshot import Snapshot

    if sum(given is not None for given in (detection_id, image, vector)) != 1:
        raise InputError("give exactly one of --id, --image, --vector")
    with ProgressBar(resumes=True):
        snapshot = Snapshot.open(index)
    row_filter = Filter(where, index_cli.read_ids(ids))
    if detection_id is not None:
        hits = snapshot.neighbours(detection_id, k, filter=row_filter, exact=exact)
    else:
        raw = _embed_file(snapshot, image) if image is not None else _load_vector(vector)
        hits = snapshot.search(raw, k, filter=row_filter, exact=exact)
    records = snapshot.describe(hits)
    if as_json:
        print_json({"metric": snapshot.manifest.metric, "hits": records})
        return
    for hit in records:
        box = "" if hit["box"] is None else " [" + " ".join(f"{v:.0f}" for v in hit["box"]) + "]"
        label = hit["label"] or ""
        echo(
            f"{hit['rank']:>3}  {hit['score']:.4f}  {hit['detection_id']}  {label}  "
            f"{hit['image']}{box}"
        )


def _embed_file(snapshot: Snapshot, file: Path) -> NDArray[np.floating]:
    from pipelines.engines.embed import Embedder
    from pipelines.images.pixels import ImageError, read

    try:
        data = read(file)
        return Embedder.load(snapshot.manifest.model).embed_bytes(data).embedding[None]
    except ImageError as error:
        raise InputError(f"--image {file}: {error}") from None


def _load_vector(file: Path | None) -> NDArray[np.floating]:
    import numpy as np

    assert file is not None
    try:
        values: NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--vector {file} cannot be read as .npy: {error}") from None
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InputError(
            f"--vector {file} is {values.dtype} {values.shape}; give one vector of numbers, [D]"
        )
    return values.astype(np.float32)[None]
