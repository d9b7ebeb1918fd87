"""An HDF5 file stands whole under its name, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.outputs.hdf5 import new_h5


def test_a_file_holds_what_was_put_in(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(3, 4)
    with new_h5(tmp_path / "a.h5") as file:
        file["values"] = values
        assert not (tmp_path / "a.h5").exists()
    with h5py.File(tmp_path / "a.h5") as stored:
        np.testing.assert_array_equal(stored["values"][:], values)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write() -> None:
        with new_h5(tmp_path / "a.h5") as file:
            file["values"] = np.zeros(3)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write()
    assert list(tmp_path.iterdir()) == []
