"""The end of a run: count every row, hash every file, write down what the run is.

A few files are read here, many by tasks: one process would read a billion rows for hours.
"""

from __future__ import annotations

import hashlib
import io
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.tasks import Tasks
from common.errors import VerifyError
from common.json_models import sha256_file
from common.moved import Pairs
from common.storage import list_folder
from common.untrusted import refuse_pickled
from pipelines.outputs.hdf5 import shard_name
from pipelines.request import Request
from pipelines.run import RowCounts, RunManifest, SessionInfo

_FILES_A_TASK = 16
FILES_HERE = 64  # up to so many, tasks cost more than they save


class _Counts(NamedTuple):
    """Contents of some files; of those that are not detections only their hashes."""

    hashes: list[str]
    row_ids: list[np.ndarray]
    errors: Counter[str]
    refused: int


def describe_run(
    out: Path,
    root: Path,
    request: Request,
    *,
    planned: int,
    seconds: float,
    session: SessionInfo | None,
    files: Sequence[Path] | None = None,
    pairs: Pairs = (),
    tasks: Callable[[], Tasks] = lambda: Tasks("checking"),
    done: Callable[[int], None] = lambda rows: None,
) -> RunManifest:
    """Check that every planned row is stored once, then describe the run.

    Args:
        out: the run folder.
        root: folder that relative image names start from.
        request: of the run.
        planned: rows of the plan.
        seconds: that the run has taken.
        session: the last one.
        files: of detections and of the plan; None: all that are there.
        pairs: of folders of images that were moved.
        tasks: makes the tasks that read many files.
        done: receives the number of rows counted.

    Raises:
        VerifyError: rows are missing or stand twice.
        StalledError, WorkError: of the tasks that read the files.
    """
    stored = [*(files or (*data_files(out), *list_folder(out / "plan", "*.parquet")))]
    if request.config.hdf5:
        rows = [file for file in stored if file.parent.name == "detections"]
        stored += [*(out / shard_name(file) for file in rows), out / "features.h5"]
    parts = [stored[at : at + _FILES_A_TASK] for at in range(0, len(stored), _FILES_A_TASK)]
    errors = Counter[str]()
    seen = np.zeros(planned, dtype=np.uint8)
    refused = 0

    def add(counts: _Counts) -> None:
        nonlocal refused
        for ids in counts.row_ids:
            np.add.at(seen, ids, 1)
        errors.update(counts.errors)
        refused += counts.refused
        counts.row_ids.clear()  # results are kept to the end, and these would be gigabytes
        done(int(np.count_nonzero(seen)))

    runner = tasks() if len(stored) > FILES_HERE else Tasks("checking")
    counted = runner.run(_count_rows, parts, done=add)
    if not (seen == 1).all():
        raise VerifyError(
            f"{out}: {int((seen == 0).sum())} planned rows are missing and "
            f"{int((seen > 1).sum())} stand twice; keep the folder and report this"
        )
    hashes = [digest for counts in counted for digest in counts.hashes]
    names = [file.relative_to(out).as_posix() for file in stored]
    return RunManifest(
        config=request.config,
        source=request.config.source,
        root=str(root),
        path=str(out.resolve()),
        moved=pairs,
        model=request.embeds,
        classifier=None if request.embeds == request.facts else request.facts,
        gate=request.config.gate_request,
        fingerprint=request.embeds.fingerprint,
        precision=request.precision,
        engine=request.engine,
        precision_audit=request.audit,
        notes=request.notes,
        rows=RowCounts(
            planned=planned,
            written=planned,
            failed=sum(errors.values()),
            refused=refused,
        ),
        errors=dict(errors),
        versions=_versions(),
        seconds=seconds,
        session=session,
        files=dict(zip(names, hashes, strict=True)),
    )


def _count_rows(files: list[Path]) -> _Counts:
    """Read each file once: hash its bytes and, if it holds detections, count its rows."""
    hashes, row_ids, errors, refused = [], [], Counter[str](), 0
    for file in files:
        if file.parent.name != "detections":
            hashes.append(sha256_file(file))
            continue
        data = file.read_bytes()
        hashes.append(hashlib.sha256(data).hexdigest())
        table = pq.read_table(
            io.BytesIO(data),
            columns=["row_id", "error", "label_index"],
            page_checksum_verification=True,
        )
        refuse_pickled(table.schema, str(file))
        row_ids.append(table["row_id"].to_numpy())
        for text in pc.drop_null(table["error"]).to_pylist():
            errors[text.split(":", 1)[0]] += 1
        refused += table["label_index"].null_count - (table.num_rows - table["error"].null_count)
    return _Counts(hashes, row_ids, errors, refused)


def data_files(out: Path) -> list[Path]:
    """The files of detections, in name order."""
    return list_folder(out / "detections", "*.parquet")


def _versions() -> dict[str, str]:
    names = ("onepass", "ray", "torch", "torchvision", "timm", "openvino", "pyarrow", "numpy")
    versions = {"python": platform.python_version()}
    for name in names:
        with suppress(PackageNotFoundError):  # an extra that is not installed
            versions[name] = version(name)
    return versions
