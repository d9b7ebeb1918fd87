"""``request.json``: what was asked of a run, written first, compared before anything is continued.

It holds the configuration, the hashes of the files that it names, and what was resolved from it. A
rerun with an equal configuration continues the run or finds it finished; any other is refused, and
the message names what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.csv
from pydantic import model_validator

from common.errors import ModelError, RunError
from common.json_models import JsonModel, is_draft, read_json, sha256_file
from common.lock import Check, lock_folder
from common.moved import Pairs, places_of
from common.parquet import read_parquet
from common.storage import holds_files, is_remote, list_folder, remove_folder, storage_errors
from common.text import escape, is_text
from pipelines.config import ExtractConfig
from pipelines.model_info import EngineName, ModelInfo, Precision, PrecisionAudit


class GateInfo(JsonModel):
    """What the configuration's gate turned out to be."""

    facts: ModelInfo
    labels: tuple[str, ...]
    label_index: int  # of the class that passes


class Request(JsonModel):
    """Contents of ``request.json``: what was asked for, and what was resolved from it."""

    format: Literal[2] = 2
    config: ExtractConfig
    path: str | None = None  # the run folder when this was written; None: before it was kept
    inputs: dict[str, str]  # sha256 of the plan and of each file that the configuration names
    plan: dict[str, str] | None = None  # sha256 of the plan's files; None: before it was kept
    facts: ModelInfo
    labels: tuple[str, ...] | None
    gate: GateInfo | None
    precision: Precision
    engine: EngineName
    audit: PrecisionAudit | None  # of precision and engine; None where both are exact
    notes: tuple[str, ...]  # why precision and engine were chosen; for people

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        if isinstance(values, dict) and "command" in values:
            return _from_format_1(values)
        return values

    @property
    def embeds(self) -> ModelInfo:
        """The model whose embeddings the rows hold."""
        if self.gate is not None and self.config.embed_with == "gate":
            return self.gate.facts
        return self.facts


class LockedRun(NamedTuple):
    """A run folder that is this command's alone."""

    earlier: Request | None  # the unfinished request that stands there
    check: Check


@contextmanager
def lock_run(
    out: Path,
    config: ExtractConfig,
    inputs: dict[str, str],
    on_wait: Callable[[float, float], None] = lambda waited, of: None,
    *,
    update: bool = False,
    pairs: Pairs = (),
    rows: pa.Table | None = None,
) -> Iterator[LockedRun]:
    """Take ``out`` for this process alone while the block runs.

    A new folder is made only when the block first writes; if the block fails before that,
    the folder is removed again.

    Args:
        out: the run folder.
        config: what is asked for.
        inputs: hashes of the plan and of the files that ``config`` names.
        on_wait: called with seconds waited and to wait, as ``lock_folder`` calls it.
        update: the source may have other rows than the run.
        pairs: of folders of images that were moved.
        rows: of the source, as ``earlier_request`` takes them.

    Raises:
        RunError: ``out`` is a file, holds something else, or belongs to another command.
        FolderError: ``out`` cannot be written, or another process is at work on it.
        StorageError: ``out`` is in an object store that cannot be reached.
    """
    with storage_errors(out):
        # before anything is touched
        earlier_request(out, config, inputs, update=update, pairs=pairs, rows=rows)
    with lock_folder(out, "extract", on_wait) as check:
        try:
            with storage_errors(out):  # again: another process may have ended meanwhile
                earlier = earlier_request(
                    out, config, inputs, update=update, pairs=pairs, rows=rows
                )
            yield LockedRun(earlier, check)
        finally:
            with suppress(OSError):  # of a store; what failed before matters more
                if not (out / "request.json").is_file() and not list_folder(out / "detections"):
                    remove_folder(out / "plan")


def earlier_request(
    out: Path,
    config: ExtractConfig,
    inputs: dict[str, str],
    *,
    update: bool = False,
    pairs: Pairs = (),
    rows: pa.Table | None = None,
) -> Request | None:
    """The request of a run that ``config`` would continue, or finds finished; None if new.

    Args:
        out, config, inputs, update, pairs: as ``lock_run`` takes them.
        rows: of the source, with what it gives itself; a run that has them in another order, as
            version 0.1.0 sorted names, is the same. None: the order counts.

    Raises:
        RunError: ``out`` is a file, holds something else, or belongs to another command.
    """
    if not is_remote(out) and not is_text(str(out.resolve())):
        raise RunError(f"`out='{escape(str(out))}'`: the name is not UTF-8; give another folder")
    if not out.exists():
        return None
    if out.is_file():
        raise RunError(f"`out={str(out)!r}` is a file; give a folder")
    request_file = out / "request.json"
    if not request_file.is_file():
        if any(_foreign(out)):
            raise RunError(f"`out={str(out)!r}` is not empty and not a run; give a new folder")
        return None
    earlier = read_json(request_file, Request)
    then, now = earlier.config.decisive(), config.decisive()
    then |= {name: now[name] for name in _moved(out, earlier, config, inputs, pairs)}
    differs = differences(then | {"inputs": earlier.inputs}, now | {"inputs": inputs})
    if [line.partition(":")[0] for line in differs] == ["inputs.plan"]:  # the rows alone
        same = update or config.from_run  # whose source is a run that was updated
        if not same and (rows is None or not _same_but_for_order(out, rows)):
            raise RunError(
                f"`out={str(out)!r}`: {config.source} has other rows now than this run; set "
                "`update=True` to answer what is new or changed, or give a new `out`"
            )
        differs = differs if config.from_run else []
    if differs:
        raise RunError(
            f"`out={str(out)!r}` is a run of another command ({'; '.join(differs)}); give a new `out`"
        )
    # How it runs is this command's own: cores, waits and places may be others now.
    return earlier.model_copy(update={"config": config})


_FILES = ("checkpoint", "labels", "head", "gate_checkpoint", "gate_labels")


def _moved(
    out: Path, earlier: Request, config: ExtractConfig, inputs: dict[str, str], pairs: Pairs
) -> Iterator[str]:
    """Fields that name the same source and files as then, which lie elsewhere now."""
    source = earlier.config.source
    head = "sqlite:///" if source.startswith("sqlite:////") else ""
    places = [source]
    if source.startswith(("/", "sqlite:////")):
        file = source.removeprefix(head)
        places = [head + place for place in places_of(file, earlier.path, out, pairs)]
    if config.source in places:
        yield "source"
    for name in _FILES:
        digest = inputs.get(_input_name(name))
        if digest is not None and digest == earlier.inputs.get(_input_name(name)):
            yield name


def _same_but_for_order(out: Path, rows: pa.Table) -> bool:
    """Whether the plan in ``out`` has these rows, in any order."""
    files = list_folder(out / "plan", "*.parquet")
    tables = [read_parquet(file) for file in files]
    if not tables or not set(rows.column_names) <= set(tables[0].column_names):
        return False
    planned = pa.concat_tables(tables).select(rows.column_names)
    return planned.num_rows == rows.num_rows and _lines(planned) == _lines(rows)


def _lines(table: pa.Table) -> list[bytes]:
    sink = pa.BufferOutputStream()
    plain = table.drop_columns([f.name for f in table.schema if pa.types.is_nested(f.type)])
    pyarrow.csv.write_csv(plain, sink, pyarrow.csv.WriteOptions(include_header=False))
    return sorted(sink.getvalue().to_pybytes().splitlines())


def _input_name(field: str) -> str:
    return field.replace("_", "-")


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


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Values that differ, each as ``name: then 'a', now 'b'``, in the order of their names."""
    lines: list[str] = []

    def compare(name: str, a: Any, b: Any) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in a.keys() | b.keys():
                compare(f"{name}.{key}" if name else key, a.get(key), b.get(key))
        elif a != b:
            lines.append(f"{name}: then {a!r}, now {b!r}")

    compare("", then, now)
    return sorted(lines)


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """The contents of a ``request.json`` of version 0.1.0 in today's form."""
    command = values["command"]
    reading, outputs, gate = command["reading"], command["outputs"], command["gate"]
    kinds = [kind for kind in ("map", "pyramid") if outputs[kind]]
    config = {
        "source": command["source"],
        "from_run": reading.get("again", False),
        **{name: reading[name] for name in ("kind", "frames", "limit")},
        **{name: value for name, value in command["model"].items() if name != "spec"},
        "model": command["model"]["spec"],
        "features": ["pooled", *kinds],
        "feature_indices": outputs["pyramid"],
        "logits": outputs["logits"],
        **{name: command[name] for name in ("precision", "engine", "top_k", "hdf5")},
    }
    if gate is not None:
        config |= {
            "gate": gate["model"]["spec"],
            "gate_checkpoint": gate["model"]["checkpoint"],
            "gate_labels": gate["model"]["labels"],
            "gate_label": gate["label"],
            "gate_threshold": gate["threshold"],
            "embed_with": gate["embed"],
        }
    rest = {name: value for name, value in values.items() if name != "command"}
    if rest["gate"] is not None:
        rest["gate"] = {name: value for name, value in rest["gate"].items() if name != "asked"}
    return {"config": config, "inputs": command["inputs"], **rest}


def fingerprint_inputs(plan: pa.Table, config: ExtractConfig) -> dict[str, str]:
    """Hash the planned rows and each file that the configuration names.

    Returns:
        Name of the input, as ``plan`` or ``gate-labels``, to the first 16 digits of its sha256.

    Raises:
        ModelError: a named file does not exist.
    """
    inputs = {"plan": _table_digest(plan)}
    for name in _FILES:
        file = getattr(config, name)
        if file and not Path(file).is_file():
            kind = "a folder, not a file" if Path(file).is_dir() else "no such file"
            raise ModelError(f"`{name}={file!r}`: {kind}")
        if file:
            inputs[_input_name(name)] = sha256_file(Path(file))[:16]
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
