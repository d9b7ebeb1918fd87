"""The record that makes a folder complete: written last, it names the other files with their sha256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field

from common.compared import compare
from common.errors import RunError
from common.json_models import JsonModel, read_json, write_record
from common.refusals import read_errors

MANIFEST = "manifest.json"

_RESTORE = "; restore it from a copy, or make its folder again"


class Manifest(JsonModel):
    """Base of the manifests of runs, index versions, tracks and clips."""

    format: int = 1
    files: dict[str, str] = Field(repr=False)  # name, relative to the folder, to sha256

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a folder.

        Raises:
            RunError: it is damaged, or of a format that this version does not know.
            OSError: it cannot be read, or StorageError where that is in an object store.
        """
        file = folder / MANIFEST
        with read_errors(folder):
            manifest = read_json(file, cls)
        newest = cls.model_fields["format"].default
        if not 1 <= manifest.format <= newest:
            raise RunError(
                f"{file} is of format {manifest.format}, and this version of onepass reads formats up "
                f"to {newest}; install the version that wrote it, or make its folder again"
            )
        return manifest

    def write(self, folder: Path) -> None:
        """Write it atomically, its files and its own hash last.

        Raises:
            OSError: the disk or the object store refused.
        """
        record = self.model_dump(mode="json")
        record["files"] = record.pop("files")
        write_record(folder / MANIFEST, record)

    def verify_files(self, folder: Path) -> None:
        """Compare the files in ``folder`` with their sha256; errors as ``verify_files``."""
        verify_files(folder, self.files)


def check_file(file: Path, sha256: str) -> Path:
    """Compare a file with its sha256 before it is read; once a process, while it is unchanged.

    A file in an object store is fetched whole for that.

    Args:
        file: to be read.
        sha256: of its manifest.

    Returns:
        The file.

    Raises:
        VerifyError: it is missing or differs.
        FileAccessError: this machine refused to read it.
        StorageError: the object store does not answer.
    """
    compare({file: sha256}, trust="process", then=_RESTORE)
    return file


def verify_files(folder: Path, files: Mapping[str, str], *, then: str = "") -> None:
    """Compare files with their sha256, those too that were compared before.

    Args:
        folder: where they are.
        files: name, relative to the folder, to sha256.
        then: the end of an error message: what to do next.

    Raises:
        VerifyError: one is missing or differs; names the first.
        StorageError: an object store does not answer.
    """
    compare({folder / name: sha256 for name, sha256 in files.items()}, trust="nothing", then=then)
