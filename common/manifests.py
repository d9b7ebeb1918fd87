"""The record that makes a folder complete: written last, it names the other files with their sha256."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from common.compared import compare
from common.errors import RunError, first_line
from common.json_models import JsonModel, parse_json, sha256_json, write_atomic
from common.refusals import read_errors

MANIFEST = "manifest.json"

_OWN = "sha256"  # of the rest of a manifest, as ``sha256_json`` has it
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
            manifest = parse_json(json.dumps(read_record(file)).encode(), cls, file)
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
        record[_OWN] = sha256_json(record)
        write_atomic(folder / MANIFEST, json.dumps(record, indent=2, ensure_ascii=False).encode())

    def verify_files(self, folder: Path) -> None:
        """Compare the files in ``folder`` with their sha256; errors as ``verify_files``."""
        verify_files(folder, self.files)


def read_record(file: Path) -> dict[str, Any]:
    """Read a manifest as it stands, without its own hash, which it is compared with.

    Raises:
        RunError: it is damaged. One without a hash is of an earlier version and is taken as it is.
    """
    try:
        record = json.loads(file.read_bytes())
        own = record.pop(_OWN, None)
    except (ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{file} cannot be read: {first_line(error)}{_RESTORE}") from None
    if own is not None and own != sha256_json(record):
        raise RunError(f"{file} was damaged or changed by hand: its own sha256 differs{_RESTORE}")
    checked: dict[str, Any] = record
    return checked


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
