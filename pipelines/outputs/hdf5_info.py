"""The metadata of onepass's HDF5 files, and whether they are complete.

There are two kinds: a run's ``features.h5``, and the files of ``onepass clips``. Both are virtual:
their values are in shards, and HDF5 silently reads a missing shard as fill values. So the shards
are checked by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from common.errors import InputError, RunError, VerifyError, first_line
from common.json_models import has_own_hash, read_record
from common.manifests import MANIFEST, check_file, verify_files
from pipelines.outputs.hdf5 import datasets_of

_BACKBONE = {"clips": "backbone", "run": "model"}  # the attribute that names the model
_READ_BYTES = 32 * 2**20


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset, and the files with its values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    shards: tuple[str, ...]  # relative to the file's folder


@dataclass(frozen=True)
class Hdf5Info:
    """A file as it describes itself."""

    path: Path  # as it was given, which may be a link
    kind: Literal["clips", "run"]
    attributes: dict[str, Any]
    datasets: tuple[DatasetInfo, ...]

    @property
    def folder(self) -> Path:
        """Where the file itself is, to which its shards are relative; HDF5 follows links as well."""
        return self.path.resolve().parent

    @property
    def feature_dim(self) -> int:
        """Width of ``features``, as it is stored."""
        return next(d.shape[-1] for d in self.datasets if d.name == "features")

    @property
    def backbone(self) -> str:
        """The spec of the model whose features these are."""
        return str(self.attributes[_BACKBONE[self.kind]])

    @property
    def shards(self) -> list[str]:
        """Every shard once, in the order of the rows."""
        return list(dict.fromkeys(name for dataset in self.datasets for name in dataset.shards))


def read_h5(path: Path) -> Hdf5Info:
    """Read attributes, datasets and shards of a ``features.h5`` or a file of clips.

    Raises:
        InputError: no such file, no HDF5, or none that onepass wrote.
        VerifyError: a shard is missing.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; HDF5 is written by 'onepass clips' and 'onepass extract --hdf5'"
        )
    check_h5(path)
    try:
        with h5py.File(path) as file:
            info = _read(path, file)
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as HDF5: {first_line(error)}") from None
    folder = info.folder
    for name in info.shards:
        if not (folder / name).is_file():
            raise VerifyError(
                f"{path}: its shard {folder / name} is missing; move the whole folder, or "
                "make it again with the command it was made with"
            )
    return info


def _read(path: Path, file: h5py.File) -> Hdf5Info:
    attributes = {
        name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for name, value in file.attrs.items()
    }
    kinds: tuple[Literal["clips"], Literal["run"]] = ("clips", "run")
    kind = next((kind for kind in kinds if _BACKBONE[kind] in attributes), None)
    if kind is None or "fingerprint" not in attributes or "features" not in file:
        raise InputError(
            f"{path} is HDF5, but neither the features.h5 of a run nor a file of 'onepass clips'; "
            "a shard is inspected through the file above it"
        )
    datasets = []
    for name, data in datasets_of(file):
        sources = data.virtual_sources() if data.is_virtual else ()
        shards = tuple(source.file_name for source in sources)
        datasets.append(DatasetInfo(name, tuple(data.shape), str(data.dtype), shards))
    return Hdf5Info(path, kind, attributes, tuple(datasets))


def check_h5(path: Path, shards: Iterable[str] = ()) -> None:
    """Compare a file of a run or of clips with the manifest there, before it is read.

    Args:
        path: the file; one that is not where it was made is not compared.
        shards: files with its values, relative to its folder, that are compared as well.

    Raises:
        VerifyError: one differs, or the manifest does not name it.
    """
    path = path.resolve()
    folder = path.parent
    manifest = folder / MANIFEST
    if not (manifest.is_file() and (folder / "request.json").is_file()):
        return
    hashes = _hashes(folder)
    for name in sorted({path.name, *shards}):
        if name in hashes:
            check_file(folder / name, hashes[name])
        elif has_own_hash(manifest):  # earlier ones did not name all
            raise VerifyError(
                f"{folder / name} is not named in {manifest}, which is that of another folder; restore "
                "it from a copy"
            )


def verify_h5(info: Hdf5Info) -> int:
    """Read every value, and compare the files with the manifest in their folder, if there is one.

    Returns:
        The number of files whose sha256 was compared; 0 where there is no manifest.

    Raises:
        VerifyError: naming the first file that differs or row that is missing.
    """
    folder = info.folder
    hashes = _hashes(folder)
    hashed = [name for name in (info.path.resolve().name, *info.shards) if name in hashes]
    verify_files(folder, {name: hashes[name] for name in hashed})
    with h5py.File(info.path) as file:
        for dataset in info.datasets:
            for rows in _slices(dataset):
                try:
                    values = file[dataset.name][rows]
                except (OSError, KeyError, RuntimeError) as error:
                    raise VerifyError(
                        f"{info.path}: {dataset.name} cannot be read: {first_line(error)}"
                    ) from None
                missing = _missing_rows(file, dataset.name, rows, values)
                if missing.any():
                    raise VerifyError(
                        f"{info.path}: {dataset.name} of row {rows.start + int(missing.argmax())} "
                        "was never written, or its shard cannot be read; make the file again"
                    )
    return len(hashed)


def _hashes(folder: Path) -> dict[str, str]:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return {}
    try:
        hashes: dict[str, str] = read_record(manifest)["files"]
    except (RunError, KeyError, TypeError):
        raise VerifyError(f"{manifest} cannot be read; it was damaged") from None
    return hashes


def _slices(dataset: DatasetInfo) -> Iterator[slice]:
    """Rows in pieces of bounded size."""
    per_row = int(np.prod(dataset.shape[1:])) * np.dtype(dataset.dtype).itemsize
    step = max(1, _READ_BYTES // max(per_row, 1))
    for start in range(0, dataset.shape[0], step):
        yield slice(start, min(start + step, dataset.shape[0]))


def _missing_rows(file: h5py.File, name: str, rows: slice, values: np.ndarray) -> np.ndarray:
    """``[N]``, True where a row has values that only a missing row has."""
    if name == "features":
        has_nan: np.ndarray = np.isnan(values).reshape(len(values), -1).any(axis=1)
        # A row with an error is NaN on purpose; if it were missing, its row_id would be -1.
        return has_nan & file["valid"][rows] if "valid" in file else has_nan
    if name in ("row_id", "num_frames"):
        below: np.ndarray = values < 0
        return below
    return np.zeros(len(values), dtype=bool)
