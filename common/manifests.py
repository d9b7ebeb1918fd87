"""The record that makes a folder complete: written last, it names the other files with their sha256."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field

from common.errors import VerifyError
from common.json_models import JsonModel, read_json, sha256_file, write_atomic
from common.refusals import read_errors

MANIFEST = "manifest.json"


class Manifest(JsonModel):
    """Base of the manifests of runs, index versions, tracks and clips."""

    format: int = 1
    files: dict[str, str] = Field(repr=False)  # name, relative to the folder, to sha256

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a folder.

        Raises:
            RunError: it is not what this version writes.
            OSError: it cannot be read, or StorageError where that is in an object store.
        """
        with read_errors(folder):
            return read_json(folder / MANIFEST, cls)

    def write(self, folder: Path) -> None:
        """Write it atomically, its files last: they are the longest part.

        Raises:
            OSError: the disk or the object store refused.
        """
        record = self.model_dump(mode="json")
        record["files"] = record.pop("files")
        write_atomic(folder / MANIFEST, json.dumps(record, indent=2, ensure_ascii=False).encode())

    def verify_files(self, folder: Path) -> None:
        """Compare the files in ``folder`` with their sha256; errors as ``verify_files``."""
        verify_files(folder, self.files)


def verify_files(folder: Path, files: Mapping[str, str], *, then: str = "") -> None:
    """Compare files with their sha256.

    Args:
        folder: where they are.
        files: name, relative to the folder, to sha256.
        then: the end of an error message: what to do next.

    Raises:
        VerifyError: one is missing or differs; names the first.
        StorageError: an object store does not answer.
    """
    for name, expected in files.items():
        file = folder / name
        with read_errors(file):
            if not file.is_file():
                raise VerifyError(f"{file} is named in the manifest but missing{then}")
            if sha256_file(file) != expected:
                raise VerifyError(f"{file} does not match its sha256 in the manifest{then}")
