"""The command ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import InputError
from common.progress import ProgressBar
from onepass.cli.console import Json, echo, print_json, to_path
from onepass.cli.flags import with_flags
from onepass.cli.format import duration, where_the_time_went
from onepass.cli.index import show_index

if TYPE_CHECKING:
    from pipelines.outputs.hdf5_info import Hdf5Info
    from pipelines.progress.profile import SessionProfile
    from pipelines.run import Run

app = typer.Typer()

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
    # late, as all below: Arrow, HDF5 and FAISS take up to a second
    from common.storage import is_remote, storage_errors

    if not is_remote(path) and (
        path.is_file() or (path.suffix in (".h5", ".hdf5") and not path.is_dir())
    ):
        from pipelines.outputs.hdf5_info import read_h5, verify_h5  # late

        facts = read_h5(path)
        _check_dim(path, facts.feature_dim, facts.backbone, expect_dim)
        compared = verify_h5(facts) if verify else None
        _show_h5(facts, compared=compared, as_json=as_json)
        return
    with storage_errors(path):
        is_index = (path / "CURRENT").is_file()
    if is_index:
        from index.search.snapshot import Snapshot  # late

        with ProgressBar(resumes=True):
            snapshot = Snapshot.open(path)
        manifest = snapshot.manifest
        _check_dim(path, manifest.dim, manifest.model_name, expect_dim)
        if verify:
            snapshot.verify()
        show_index(snapshot, verified=verify, as_json=as_json)
        if verify and not as_json:
            _say_if_not_compared(snapshot.path)
        return
    from pipelines.run import Run  # late

    run = Run.open(path)
    model = run.manifest.model
    _check_dim(path, model.feature_dim, model.request.spec, expect_dim)
    if verify:
        from tracks.store import verify_tracks  # late

        run.verify()
        verify_tracks(path)
    _show_run(run, verified=verify, as_json=as_json)
    if verify and not as_json:
        _say_if_not_compared(path)


def _say_if_not_compared(folder: Path) -> None:
    # late, as for all
    from common.json_models import has_own_hash
    from common.manifests import MANIFEST

    if not has_own_hash(folder / MANIFEST):
        echo(
            f"not verified: {MANIFEST} itself, which was written before manifests had a sha256 of their own"
        )


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
    echo(f"  images       {run.root}")
    if manifest.updates:
        vanished = f", {manifest.vanished} rows of images that are gone" * bool(manifest.vanished)
        echo(f"  updates      {manifest.updates}{vanished}")
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
    # late: Arrow takes half a second
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
