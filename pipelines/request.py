"""What was asked of a run: written first, compared before anything is continued.

``Command`` is what the user said, with the hashes of the files it names; ``Request`` adds
what was resolved from it. A rerun with an equal command continues or finds itself
finished; any other is refused, and told what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.csv

from common.errors import ModelError, RunError
from common.json_models import JsonModel, is_draft, read_json, sha256_file
from common.lock import Check, lock_folder
from common.storage import holds_files, is_remote, list_folder, remove_folder, storage_errors
from pipelines.model_info import (
    EngineName,
    GateRequest,
    ModelInfo,
    ModelRequest,
    Outputs,
    Precision,
    PrecisionAudit,
    Reading,
)


class Command(JsonModel):
    """What the user asked for; two equal commands give the same rows."""

    source: str
    reading: Reading
    model: ModelRequest
    gate: GateRequest | None
    inputs: dict[str, str]  # sha256 of the plan and of each file the model requests name
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    engine: Literal["auto", "eager", "compile", "openvino"]
    top_k: int
    outputs: Outputs
    hdf5: bool


class GateInfo(JsonModel):
    """What a gate turned out to be."""

    asked: GateRequest
    facts: ModelInfo
    labels: tuple[str, ...]
    label_index: int  # of the class that passes


class Request(JsonModel):
    """Contents of ``request.json``."""

    command: Command
    facts: ModelInfo
    labels: tuple[str, ...] | None
    gate: GateInfo | None
    precision: Precision
    engine: EngineName
    audit: PrecisionAudit | None  # of precision and engine; None where both are exact
    notes: tuple[str, ...]  # why what was left open was settled so; for people

    @property
    def embeds(self) -> ModelInfo:
        """The model whose embeddings the rows hold."""
        if self.gate is not None and self.gate.asked.embed == "gate":
            return self.gate.facts
        return self.facts


class LockedRun(NamedTuple):
    """A run folder that is this command's alone."""

    earlier: Request | None  # the unfinished request that stands there
    check: Check


@contextmanager
def lock_run(
    out: Path, command: Command, told: Callable[[float, float], None] = lambda waited, of: None
) -> Iterator[LockedRun]:
    """Take ``out`` for this command alone; ``told`` as ``sole_writer`` takes it.

    A new folder is made only when the block first writes; if the block fails before that,
    the folder is removed again.

    Raises:
        RunError: ``out`` is a file, holds something else, or belongs to another command.
        FolderError: ``out`` cannot be written, or another process is at work on it.
        StorageError: ``out`` is in an object store that cannot be reached.
    """
    with storage_errors(out):
        earlier_request(out, command)  # before anything is touched
    with lock_folder(out, "extract", told) as check:
        try:
            with storage_errors(out):  # again: another process may have ended meanwhile
                earlier = earlier_request(out, command)
            yield LockedRun(earlier, check)
        finally:
            with suppress(OSError):  # of a store; what failed before is what is told
                if not (out / "request.json").is_file() and not list_folder(out / "detections"):
                    remove_folder(out / "plan")


def earlier_request(out: Path, command: Command) -> Request | None:
    """The request of a run that ``command`` would continue, or finds finished; None if new.

    Raises:
        RunError: ``out`` is a file, holds something else, or belongs to another command.
    """
    if not out.exists():
        return None
    if out.is_file():
        raise RunError(f"--out {out} is a file; give a folder")
    request_file = out / "request.json"
    if not request_file.is_file():
        if any(_foreign(out)):
            raise RunError(f"--out {out} is not empty and not a run; give a new folder")
        return None
    earlier = read_json(request_file, Request)
    if earlier.command != command:
        differs = "; ".join(differences(earlier.command, command))
        raise RunError(f"--out {out} is a run of another command ({differs}); give a new --out")
    return earlier


def _foreign(out: Path) -> Iterator[Path]:
    # A session that died while planning leaves these; they hold no answer yet.
    others = (
        entry
        for entry in list_folder(out)
        if entry.name not in (".lock", "plan") and not is_draft(entry.name)
    )
    if is_remote(out):
        return (entry for entry in others if entry.is_file() or holds_files(entry))
    return others


def differences(then: JsonModel, now: JsonModel) -> list[str]:
    """Fields that differ, each as ``name: then 'a', now 'b'``."""
    found: list[str] = []

    def compare(name: str, a: Any, b: Any) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in a.keys() | b.keys():
                compare(f"{name}.{key}" if name else key, a.get(key), b.get(key))
        elif a != b:
            found.append(f"{name}: then {a!r}, now {b!r}")

    compare("", then.model_dump(), now.model_dump())
    return sorted(found)


def fingerprint_inputs(
    plan: pa.Table, model: ModelRequest, gate: ModelRequest | None
) -> dict[str, str]:
    """Hash the planned rows and each file the model requests name; short, for people.

    Raises:
        ModelError: a named file does not exist.
    """
    inputs = {"plan": _table_digest(plan)}
    for prefix, request in (("", model), ("gate-", gate)):
        for name in ("checkpoint", "labels", "head"):
            file = getattr(request, name, None)
            if file and not Path(file).is_file():
                raise ModelError(f"--{prefix}{name} {file}: no such file")
            if file:
                inputs[prefix + name] = sha256_file(Path(file))[:16]
    return inputs


def _table_digest(table: pa.Table) -> str:
    """Hash of the rows as CSV: the same for equal values, whatever their Arrow buffers."""
    plain = table.drop_columns([f.name for f in table.schema if pa.types.is_nested(f.type)])
    digest = hashlib.sha256(",".join(table.column_names).encode())
    for batch in plain.to_batches(max_chunksize=65536):
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(batch, sink, pyarrow.csv.WriteOptions(include_header=False))
        digest.update(sink.getvalue())
    return digest.hexdigest()[:16]
