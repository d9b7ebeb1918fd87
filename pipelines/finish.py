"""The end of a run: count every row, hash every file, describe what was made."""

from __future__ import annotations

import platform
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from cluster.errors import VerifyError
from cluster.storage import read_parquet
from pipelines.records import sha256_file
from pipelines.request import Request
from pipelines.run import RowCounts, RunManifest, SessionFacts


def describe_run(
    out: Path,
    root: Path,
    request: Request,
    *,
    planned: int,
    seconds: float,
    session: SessionFacts,
) -> RunManifest:
    """Check that every planned row stands once, then describe the run.

    Raises:
        VerifyError: rows are missing or stand twice.
    """
    errors = Counter[str]()
    seen = np.zeros(planned, dtype=np.int64)
    refused = 0
    for file in data_files(out):
        table = read_parquet(file, columns=["row_id", "error", "label_index"])
        refused += table["label_index"].null_count - (table.num_rows - table["error"].null_count)
        np.add.at(seen, table["row_id"].to_numpy(), 1)
        for text in pc.drop_null(table["error"]).to_pylist():
            errors[text.split(":", 1)[0]] += 1
    if not (seen == 1).all():
        raise VerifyError(
            f"{out}: {int((seen == 0).sum())} planned rows are missing and "
            f"{int((seen > 1).sum())} stand twice; keep the folder and report this"
        )
    stored = [*data_files(out), *sorted((out / "plan").glob("*.parquet"))]
    if request.command.hdf5:
        stored += [*sorted((out / "hdf5").glob("*.h5")), out / "features.h5"]
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(sha256_file, stored))
    names = [file.relative_to(out).as_posix() for file in stored]
    return RunManifest(
        source=request.command.source,
        root=str(root),
        model=request.embeds,
        classifier=None if request.embeds == request.facts else request.facts,
        gate=request.command.gate,
        fingerprint=request.embeds.fingerprint,
        precision=request.precision,
        engine=request.engine,
        precision_audit=request.audit,
        notes=request.notes,
        rows=RowCounts(
            planned=planned,
            written=int(seen.sum()),
            failed=sum(errors.values()),
            refused=refused,
        ),
        errors=dict(errors),
        versions=_versions(),
        seconds=seconds,
        session=session,
        files=dict(zip(names, hashes, strict=True)),
    )


def data_files(out: Path) -> list[Path]:
    """The committed record, in name order."""
    return sorted((out / "detections").glob("*.parquet"))


def _versions() -> dict[str, str]:
    names = ("onepass", "ray", "torch", "torchvision", "timm", "openvino", "pyarrow", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra that is not installed
            continue
    return found
