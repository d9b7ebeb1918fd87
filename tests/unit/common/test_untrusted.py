"""No file from outside runs code. Each attack works where nothing prevents it."""

from __future__ import annotations

import ast
import os
import pickle
import re
import stat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.errors import InputError, ModelError, SourceError
from common.parquet import open_parquet, read_parquet
from common.untrusted import read_tensors
from onepass.cli.query import _load_vector
from pipelines.engines.cache import cache_folder, cached
from pipelines.models.checkpoint import read_checkpoint
from pipelines.models.head import load_head
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


def test_the_tests_that_security_md_names_exist() -> None:
    named = set(re.findall(r"`([\w/]*\w+\.py)`", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 8
    files = [file.as_posix() for file in (ROOT / "tests").rglob("*.py")]
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []
