"""Contract 2: the run folder.

::

    RUN/
      request.json         what was asked, written first: decides whether a rerun may go on
      plan/*.parquet       the rows that must come out
      checkpoint/          Ray Data's committed row ids; gone once the run is finished
      open/                blocks that lanes are at work on; gone once the run is finished
      detections/*.parquet the record: plan columns, class, embedding, error
      hdf5/*.h5            one shard per Parquet file      (with --hdf5)
      features.h5          one virtual dataset over them   (with --hdf5)
      tracks/*.parquet     written later by ``onepass link``
      events.jsonl         what happened when, for machines; nothing depends on it
      manifest.json        written last; without it the run is unfinished
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import RunError, VerifyError
from common.json_models import JsonModel, sha256_json
from common.manifests import Manifest, check_file
from common.moved import ImageRoot, Pairs, apply_pairs, find_path, places_of
from common.parquet import open_parquet, read_parquet
from common.refusals import read_errors
from common.storage import is_remote, to_path
from pipelines.config import ExtractConfig
from pipelines.model_info import EngineName, GateRequest, ModelInfo, Precision, PrecisionAudit

if TYPE_CHECKING:
    import pandas as pd

Limit = Literal["start-up", "decode", "forward", "write", "waiting"]


class RowCounts(JsonModel):
    """``planned == written`` in every finished run.

    ``failed`` rows are written with an error, ``refused`` ones without a class: a gate did not
    let them pass.
    """

    planned: int
    written: int
    failed: int
    refused: int = 0


class StageFacts(JsonModel):
    """One stage of one session; blocks done again are in all but ``rows``."""

    name: str
    rows: int
    blocks: int
    again: int  # blocks done once more, after an actor or a node was lost
    processes: int
    seconds: float  # busy, all processes together
    memory: int  # resident bytes of its largest process


class SessionInfo(JsonModel):
    """What the session that finished a run did, and on what: what its images cost."""

    rows: int  # answered in it; earlier sessions had committed the others
    executor: Literal["local", "ray"] = "ray"  # as it was before there was another
    actors: int  # forward actors or lanes, each on a core of its own where there is no GPU
    gpus: float  # that they shared; 0: none
    # Between the first answer and the last, without start-up; None for a single answer.
    rows_a_second: float | None
    stages: tuple[StageFacts, ...] = ()
    start_seconds: float | None = None  # until the first block was begun
    work_seconds: float | None = None  # from there to the last answer
    waited: float | None = None  # share of their time that forward actors waited for blocks
    limit: Limit | None = None  # what most of the time went into


class RunManifest(Manifest):
    """Contents of ``manifest.json``."""

    config: ExtractConfig | None = None  # None: made before it was kept here
    source: str
    root: str  # relative image names start here
    path: str | None = None  # the run folder when this was written; None: before it was kept
    moved: Pairs = ()  # old and new folder of images that had been moved when they were read
    model: ModelInfo  # whose embeddings these are
    classifier: ModelInfo | None = None  # whose classes, where it is another
    gate: GateRequest | None = None
    fingerprint: str
    precision: Precision
    engine: EngineName = "eager"
    precision_audit: PrecisionAudit | None
    notes: tuple[str, ...] = ()  # why precision and engine were chosen
    rows: RowCounts
    errors: dict[str, int]  # error kind to rows
    versions: dict[str, str]
    seconds: float  # wall time of the session that finished the run
    session: SessionInfo | None = None  # None: made before it was recorded
    updates: int = 0  # how often ``extract --update`` brought it up to date
    vanished: int = 0  # rows whose image was not in the source at the last of these

    @property
    def rows_sha256(self) -> str:
        """Hash of the detections files' hashes: another one where any row is another."""
        return sha256_json(
            {name: sha for name, sha in self.files.items() if name.startswith("detections/")}
        )


class Run:
    """A finished run, opened for reading.

    Attributes:
        path: its folder.
        manifest: model, counts, files and what was asked; contents of ``manifest.json``.
        pairs: of folders of images that were moved.

    Example:
        >>> run = onepass.open_run("runs/first")
        >>> run
        Run('runs/first': 12 rows, 0 with errors, tiny, 32-d embeddings)
        >>> run.to_pandas(["image", "label"]).shape
        (12, 2)
        >>> run.embeddings().shape
        (12, 32)
    """

    def __init__(self, path: Path, manifest: RunManifest, pairs: Pairs = ()) -> None:
        self.path = path
        self.manifest = manifest
        self.pairs = pairs

    @classmethod
    def open(cls, path: str | Path, pairs: Pairs = ()) -> Run:
        """Open a finished run.

        Args:
            path: its folder, on this machine or in an object store.
            pairs: of folders of images that were moved.

        Raises:
            RunError: no such folder, no manifest (unfinished), or one of another format.
            StorageError: it is in an object store that cannot be reached.
            FileAccessError: this machine refused to read it.
        """
        folder = to_path(path)
        with read_errors(folder):
            return cls._open(folder, pairs)

    @classmethod
    def _open(cls, folder: Path, pairs: Pairs) -> Run:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such run folder; make one with 'onepass extract'")
        file = folder / "manifest.json"
        if not file.is_file():
            hint = (
                "the run is unfinished; give the same 'onepass extract' command again"
                if (folder / "request.json").is_file()
                else "this folder is not a run"
            )
            raise RunError(f"{folder} has no manifest.json: {hint}")
        manifest = RunManifest.read(folder)

        def find(file: str) -> str:
            return find_path(file, manifest.path, folder, pairs)

        models = {
            "model": manifest.model.located(find),
            "classifier": manifest.classifier and manifest.classifier.located(find),
        }
        return cls(folder, manifest.model_copy(update=models), pairs)

    def __len__(self) -> int:
        return self.manifest.rows.written

    def __repr__(self) -> str:
        rows, model = self.manifest.rows, self.manifest.model
        return (
            f"Run({str(self.path)!r}: {rows.written:,} rows, {rows.failed:,} with errors, "
            f"{model.request.spec}, {model.feature_dim}-d embeddings)"
        )

    @property
    def root(self) -> Path:
        """Folder that relative image names start from, where it is now."""
        return self.images.folder

    @cached_property
    def images(self) -> ImageRoot:
        """Where the images are now, whether they were moved with the run or by themselves."""
        stored, pairs = self.manifest.root, self.pairs
        root = find_path(stored, self.manifest.path, self.path, pairs)
        if root != stored:
            pairs = (*pairs, (stored, root))
        then = tuple((old, apply_pairs(pairs, new)) for old, new in self.manifest.moved)
        return ImageRoot(to_path(root), (*pairs, *then))

    @property
    def image_places(self) -> list[str]:
        """Folders in which images are looked for."""
        name = next(self.iter_batches(1, columns=["image"]))["image"][0].as_py()
        if name.startswith("/") or is_remote(name):  # it starts from no folder of ours
            places = (Path(name).parent, self.images.path(name).parent)
            return list(dict.fromkeys(map(str, places)))
        return places_of(self.manifest.root, self.manifest.path, self.path, self.pairs)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in their order."""
        return list(self.schema.names)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow types of the columns."""
        with open_parquet(self.check(self.files()[0])) as parquet:
            return parquet.schema_arrow

    def files(self) -> list[Path]:
        """Parquet files of the rows, in name order."""
        return self._files_in("detections")

    def plan_files(self) -> list[Path]:
        """Parquet files of the plan, in name order."""
        return self._files_in("plan")

    def _files_in(self, folder: str) -> list[Path]:
        names = sorted(name for name in self.manifest.files if name.startswith(f"{folder}/"))
        return [self.path / name for name in names]

    def check(self, file: Path) -> Path:
        """Compare one of its files with the manifest before it is read.

        Args:
            file: of ``files`` or ``plan_files``.

        Returns:
            The file.

        Raises:
            VerifyError: it is missing or differs from its sha256.
        """
        name = file.relative_to(self.path).as_posix()
        return check_file(file, self.manifest.files[name])

    def iter_batches(
        self, batch_size: int = 4096, *, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows, file by file; memory is bounded by one batch.

        The rows come in the order they were written, which differs from run to run; the column
        ``row_id`` numbers them.

        Args:
            batch_size: rows of a batch at most.
            columns: their names; None: all.

        Returns:
            Batches with these columns.

        Raises:
            RunError: there is no such column, or ``batch_size`` is below 1.
            VerifyError: a file is missing or damaged.
        """
        names = self._names(columns)
        if batch_size < 1:
            raise RunError(f"`batch_size={batch_size}`: give 1 or more")
        for file in self.files():
            with open_parquet(self.check(file)) as parquet:
                yield from parquet.iter_batches(batch_size, columns=names)

    def to_arrow(
        self, columns: Sequence[str] | None = None, *, where: pc.Expression | None = None
    ) -> pa.Table:
        """Read rows into memory, ordered by ``row_id``.

        Args:
            columns: their names; None: all.
            where: only rows that match this Arrow expression, such as ``pc.field("score") > 0.5``.

        Returns:
            A table with these columns.

        Raises:
            RunError: there is no such column.
            VerifyError: a file is missing or damaged.
        """
        names = self._names(columns)
        wanted = list(dict.fromkeys([*names, "row_id"]))
        table = pa.concat_tables(
            [read_parquet(self.check(file), columns=wanted, filters=where) for file in self.files()]
        )
        return table.sort_by("row_id").select(names)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read all rows into a DataFrame, ordered by ``row_id``.

        Args:
            columns: their names; None: all.

        Returns:
            One row per detection. ``embedding`` holds an array ``[D]`` in each row; to compute
            with all of them, ``embeddings()`` is faster.

        Raises:
            RunError: there is no such column.
            VerifyError: a file is missing or damaged.
        """
        return self.to_arrow(columns).to_pandas()

    def embeddings(self) -> npt.NDArray[np.float32]:
        """The embeddings of all rows, ordered by ``row_id`` as in ``to_pandas``.

        Returns:
            float32 ``[N, D]``, as the model gave them, not normalised; NaN in rows with an error.

        Raises:
            VerifyError: a file is missing or damaged.
        """
        vectors = np.full((len(self), self.manifest.model.feature_dim), np.nan, np.float32)
        for batch in self.iter_batches(columns=["row_id", "embedding"]):
            column = batch["embedding"]
            rows = batch["row_id"].to_numpy()[column.is_valid().to_numpy(zero_copy_only=False)]
            vectors[rows] = column.flatten().to_numpy().reshape(len(rows), -1)
        return vectors

    def _names(self, columns: Sequence[str] | None) -> list[str]:
        if columns is None:
            return self.columns
        if isinstance(columns, str):
            raise RunError(f"`columns={columns!r}`: give a list of names")
        for name in columns:
            if name not in self.columns:
                raise RunError(
                    f"{self.path} has no column {name!r}, only {', '.join(self.columns)}"
                )
        return list(columns)

    def failed_sequences(self) -> dict[str, tuple[int, str]]:
        """Sequences with failed rows: how many, and what the first of them says."""
        found: dict[str, tuple[int, str]] = {}
        failed = self.to_arrow(["sequence", "error"], where=pc.field("error").is_valid())
        for name, error in zip(
            failed["sequence"].to_pylist(), failed["error"].to_pylist(), strict=True
        ):
            rows, first = found.get(name, (0, error))
            found[name] = rows + 1, first
        return found

    def image_path(self, image: str) -> Path:
        """Path of a row's image on this machine."""
        return self.images.path(image)

    @property
    def where_images_are(self) -> str:
        """For messages: where images are looked for, and what to do where they are not."""
        places = ", ".join(self.image_places)
        return f"looked in {places}; `images='OLD=NEW'` says where a folder is now"

    def verify(self) -> int:
        """Check every file's sha256 and that each planned row is stored exactly once.

        Returns:
            The number of rows checked.

        Raises:
            VerifyError: naming the first file or count that disagrees.
        """
        self.manifest.verify_files(self.path)
        planned = self.manifest.rows.planned
        seen = self.to_arrow(["row_id"])["row_id"].to_numpy()
        if len(seen) != planned or not (seen == range(planned)).all():
            raise VerifyError(
                f"{self.path}: {planned} rows planned, {len(seen)} stored, "
                f"{len(set(seen.tolist()))} distinct"
            )
        return planned
