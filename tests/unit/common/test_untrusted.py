"""No file from outside runs code. Each attack works where nothing prevents it."""

from __future__ import annotations

import ast
import os
import pickle
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.errors import InputError, ModelError, SnapshotError, SourceError
from common.parquet import open_parquet, read_parquet
from common.untrusted import read_tensors
from index.build.sources.arrays import open_hdf5
from index.storage.rows import load_array
from onepass.cli.query import _load_vector
from pipelines.engines.cache import cache_folder, cached
from pipelines.images.errors import ImageError
from pipelines.images.tensors import TensorFile
from pipelines.model_info import HeadInfo
from pipelines.models.checkpoint import read_checkpoint
from pipelines.models.head import Head, load_head, save_head
from pipelines.sources.read import read_source

ROOT = Path(__file__).resolve().parents[3]


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


def test_the_attack_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(Attack(mark)))  # noqa: S301
    assert mark.exists()


def test_a_checkpoint_and_a_head(tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Attack(mark)}, file)
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read_checkpoint(str(file), {"a"})
    with pytest.raises(ModelError, match="cannot be read"):
        load_head(file)
    with pytest.raises(ValueError, match=r"holds posix\.mkdir"):
        read_tensors(file, mmap=True)
    assert not mark.exists()


def bombs(folder: Path) -> Iterator[Path]:
    """Small files that say they are of many gigabytes."""
    one, shape = torch.zeros(1), (1, 16, 3, 20_000, 20_000)
    for name, tensor in {
        "strides": one.expand(shape),
        "inside": {"videos": {"a": [one.expand(shape)]}},
        "sparse": torch.sparse_coo_tensor(
            torch.zeros(5, 1, dtype=torch.long), one, shape, check_invariants=True
        ),
        "meta": torch.empty(shape, device="meta"),
        "clips": one.byte().expand(10**9, 1, 1, 1, 1),
    }.items():
        torch.save(tensor, folder / f"{name}.pt")
        yield folder / f"{name}.pt"
    torch.save(one.expand(shape), folder / "old.pt", _use_new_zipfile_serialization=False)
    yield folder / "old.pt"

    def rewritten(name: str, compression: int, pickled: bytes | None = None) -> Path:
        with (
            zipfile.ZipFile(folder / "strides.pt") as source,
            zipfile.ZipFile(folder / name, "w", compression) as target,
        ):
            for member in source.namelist():
                is_pickle = pickled is not None and member.endswith("data.pkl")
                target.writestr(member, pickled if is_pickle else source.read(member))
        return folder / name

    pickled = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\xf2\x05\x2a\x01\x85R."  # bytearray(5e9)
    yield rewritten("bytes.pt", zipfile.ZIP_STORED, pickled)
    yield rewritten("deflated.pt", zipfile.ZIP_DEFLATED)
    yield rewritten("lzma.pt", zipfile.ZIP_LZMA)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_a_small_file_of_tensors_stays_small(tmp_path: Path) -> None:
    tried = []
    for file in bombs(tmp_path):
        with pytest.raises(ValueError, match=r"bytes|compressed|bytearray") as caught:
            read_tensors(file, mmap=True)
        assert "\n" not in str(caught.value)
        with pytest.raises(ImageError, match="cannot be read as tensors"):
            TensorFile(file)
        with pytest.raises(ModelError, match="cannot be read"):
            read_checkpoint(str(file), {"a"})
        tried.append(file.name)
    assert len(tried) == 9


def test_views_that_the_file_has_room_for_are_read(tmp_path: Path) -> None:
    video = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(1, 3, 4, 4)
    shared = [video, video]
    shared.append(shared)
    torch.save({"videos": video.expand(2, 3, 4, 4), "shared": shared}, tmp_path / "a.pt")
    assert TensorFile(tmp_path / "a.pt").shape == (1, 2, 4, 4)


def test_a_head_that_states_other_sizes_than_its_weights(tmp_path: Path) -> None:
    facts = HeadInfo(
        features="pooled",
        shape=(4,),
        hidden=(),
        dropout=0.0,
        classes=("a", "b", "c"),
        spec="tiny",
        fingerprint="0" * 64,
    )
    file = tmp_path / "head.pt"
    save_head(Head(facts), file)
    assert load_head(file).facts == facts
    stored = torch.load(file, weights_only=True)
    stored["facts"] = facts.model_copy(update={"shape": (10**12,)}).model_dump_json()
    torch.save(stored, file)
    with pytest.raises(ModelError, match="sizes that it states"):
        load_head(file)


@pytest.mark.parametrize("shape", ["(1000000000000000,)", "(40000000000,)", "(1, 9000000000)"])
def test_a_query_vector_larger_than_its_file(tmp_path: Path, shape: str) -> None:
    file = tmp_path / "v.npy"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    file.write_bytes(
        b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(16)
    )
    with pytest.raises(InputError, match="cannot be read"):
        _load_vector(file)
    with pytest.raises(ValueError, match="reshape"):
        load_array(file)


@pytest.mark.parametrize("shape", [(10**11, 8), (6, 10**9)])
def test_hdf5_that_declares_more_than_it_holds(tmp_path: Path, shape: tuple[int, int]) -> None:
    options: dict[str, Any] = {"chunks": (1, 8), "compression": "gzip"}
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("features", shape, "f4", **options)
    with pytest.raises(SnapshotError, match="declares"):
        open_hdf5(tmp_path / "x.h5", None)
    with h5py.File(tmp_path / "y.h5", "w") as file:  # few of its rows are written
        file.create_dataset("features", (1000, 8), "f4", **options)[:2] = 1
    assert open_hdf5(tmp_path / "y.h5", None).rows == 1000


def test_a_query_vector_that_is_an_archive(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "v.npz", a=np.zeros(10**6, np.float32))
    with pytest.raises(InputError, match="cannot be read"):
        _load_vector(tmp_path / "v.npz")


def test_a_query_vector(tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "v.npy"
    np.save(file, np.array([Attack(mark)], object), allow_pickle=True)
    with pytest.raises(InputError):
        _load_vector(file)
    assert not mark.exists()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("column", ["image", "note"])
def test_a_manifest_with_rays_pickled_objects(
    tmp_path: Path, mark: Path, column: str, nested: bool
) -> None:
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    values = pa.array([pickle.dumps(Attack(mark))], pa.large_binary())
    pickled = pa.ExtensionArray.from_storage(ArrowPythonObjectType(), values)
    if nested:
        pickled = pa.StructArray.from_arrays([pickled], ["inner"])
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"image": ["a.jpg"]} | {column: pickled}), file)
    for read in (lambda file: read_source(str(file)), read_parquet, open_parquet):
        with pytest.raises(SourceError, match=r"ray\.data\.arrow_pickled_object"):
            read(file)
    assert not mark.exists()
    pq.read_table(file)[column].to_pylist()
    assert mark.exists()  # so it was an attack


def test_a_manifest_with_an_unregistered_type(tmp_path: Path) -> None:
    """Not registered in this process, it may be in another."""
    field = pa.field("note", pa.binary(), metadata={"ARROW:extension:name": "ray.data.other"})
    schema = pa.schema([pa.field("image", pa.string()), field])
    pq.write_table(pa.table([["a.jpg"], [b"x"]], schema=schema), tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match=r"'ray\.data\.other'"):
        read_source(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("writable", ["folder", "file"])
def test_a_compiled_engine_that_others_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = cached("engine.pt2", lambda draft: draft.write_bytes(b"code") and None)
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    (cache_folder() if writable == "folder" else engine).chmod(0o777)
    with pytest.raises(ModelError, match="others can write this one"):
        cached("engine.pt2", lambda draft: None)


def test_h5py_has_no_objects_to_unpickle(tmp_path: Path, mark: Path) -> None:
    """What is read of HDF5 is numbers and bytes; bytes that are a pickle stay bytes."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = np.void(pickle.dumps(Attack(mark)))
        with pytest.raises(TypeError):
            file["odd"] = np.array([Attack(mark)], object)
    with h5py.File(tmp_path / "x.h5") as file:
        bytes(file["features"][()])
    assert not mark.exists()


# Functions that unpickle, or may: allowed only with the argument that forbids it.
NEVER = {
    "pickle.loads",
    "yaml.load",
    "joblib.load",
    "pd.read_pickle",
    "eval",
    "exec",
}
ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
    "np.savez": ("allow_pickle", False),
}
ONLY_IN = {
    # From a pipe between a process and a child that it started itself: neither file nor network.
    "pickle.load": {"cluster/children.py"},
    # They read Arrow's types, pickled ones too: only where those are refused afterwards.
    "pq.ParquetFile": {"common/parquet.py"},
    "pq.read_table": {"common/parquet.py", "pipelines/outputs/finish.py"},
    "pq.read_schema": set(),
    "pa.ipc.open_file": {
        "index/build/sources/tables.py",
        "index/search/nodes.py",
        "index/storage/rows.py",
    },
}


def test_the_code_never_unpickles() -> None:
    checked = set()
    for file in ROOT.glob("[a-z]*/**/*.py"):
        if file.relative_to(ROOT).parts[0] in ("tests", "benchmarks"):
            continue
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name, where = ast.unparse(call.func), f"{file}:{call.lineno}"
            assert name not in NEVER, where
            if name in ONLY_IN:
                assert file.relative_to(ROOT).as_posix() in ONLY_IN[name], where
            if name in ONLY_WITH:
                checked.add(name)
                constants = {
                    word.arg: word.value.value
                    for word in call.keywords
                    if isinstance(word.value, ast.Constant)
                }
                argument, value = ONLY_WITH[name]
                assert constants.get(argument) is value, f"{where}: {argument}={value}"
    assert checked == ONLY_WITH.keys()
