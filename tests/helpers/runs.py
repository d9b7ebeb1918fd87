"""Small runs, commands and requests made without Ray or a network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.json_models import sha256_file
from pipelines.config import ExtractConfig
from pipelines.detections import complete, result_fields
from pipelines.model_info import ModelInfo, ModelRequest, Preprocess
from pipelines.request import Request
from pipelines.run import RowCounts, Run, RunManifest

TINY_FACTS = ModelInfo(
    request=ModelRequest(spec="tiny"),
    weights="made for a test",
    weights_sha256="0" * 64,
    labels_sha256=None,
    num_classes=10,
    feature_dim=32,
    preprocess=Preprocess(input_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
)


def make_config(model: ModelRequest | str = "tiny", **fields: Any) -> ExtractConfig:
    """A configuration of ``model`` in exact float32, but for the fields that are given."""
    request = ModelRequest(spec=model) if isinstance(model, str) else model
    of_model = {"model": request.spec, **request.model_dump(exclude={"spec"})}
    exact = {"source": "", "precision": "fp32", "engine": "eager"}
    return ExtractConfig(**(exact | of_model | fields))


def request_of(config: ExtractConfig, facts: ModelInfo, **fields: Any) -> Request:
    """``config``, resolved on its ``facts`` in exact float32, but for ``fields``."""
    plain: dict[str, Any] = {
        "inputs": {},
        "labels": None,
        "gate": None,
        "precision": "fp32",
        "engine": "eager",
        "audit": None,
        "notes": (),
    }
    return Request(config=config, facts=facts, **(plain | fields))


def write_run(
    path: Path,
    plan: dict[str, list[Any]],
    embeddings: np.ndarray,
    *,
    errors: dict[int, str] | None = None,
    root: Path | None = None,
    facts: ModelInfo | None = None,
    files: int = 2,
    labels: list[str] | None = None,
) -> Run:
    """Write a finished run: ``plan`` needs ``image``; row i gets ``embeddings[i]``.

    ``errors`` maps a row to its error; such rows have no embedding, label or score. ``labels``
    are the rows' classes, if not three in turn.
    """
    table = complete(pa.table(plan), where="test plan")
    dim = embeddings.shape[1]
    facts = (facts or TINY_FACTS).model_copy(update={"feature_dim": dim})
    failed = errors or {}
    rows = table.num_rows
    good = [row not in failed for row in range(rows)]
    values: dict[str, list[Any]] = {
        "label": [
            (labels[row] if labels else f"class {row % 3}") if good[row] else None
            for row in range(rows)
        ],
        "label_index": [row % 3 if good[row] else None for row in range(rows)],
        "score": [0.5 + 0.4 * (row % 2) if good[row] else None for row in range(rows)],
        "topk": [
            [{"label": f"class {row % 3}", "label_index": row % 3, "score": 0.5}]
            if good[row]
            else None
            for row in range(rows)
        ],
        "embedding": [
            embeddings[row].astype(np.float32) if good[row] else np.full(dim, np.nan, np.float32)
            for row in range(rows)
        ],
        "error": [failed.get(row) for row in range(rows)],
    }
    for field in result_fields(dim):
        table = table.append_column(field, pa.array(values[field.name], field.type))
    parts = (table.take(pa.array(part)) for part in np.array_split(np.arange(rows), files))
    return write_parts(path, parts, facts, root=root, failed=len(failed))


def hash_again(path: Path) -> None:
    """Give a run, whose files a test has written anew, the hashes that they have now."""
    manifest = RunManifest.read(path)
    files = {name: sha256_file(path / name) for name in manifest.files}
    manifest.model_copy(update={"files": files}).write(path)


def write_parts(
    path: Path,
    parts: Iterable[pa.Table],
    facts: ModelInfo,
    *,
    root: Path | None = None,
    failed: int = 0,
) -> Run:
    """Write a finished run of complete detections, one file a part."""
    (path / "detections").mkdir(parents=True)
    stored: dict[str, str] = {}
    rows = 0
    for number, part in enumerate(parts):
        name = f"detections/part-{number:04d}.parquet"
        pq.write_table(part, path / name)
        stored[name] = sha256_file(path / name)
        rows += part.num_rows
    RunManifest(
        source="test",
        root=str(root or path),
        model=facts,
        fingerprint=facts.fingerprint,
        precision="fp32",
        precision_audit=None,
        rows=RowCounts(planned=rows, written=rows, failed=failed),
        errors={},
        versions={},
        seconds=0.0,
        files=stored,
    ).write(path)
    return Run.open(path)
