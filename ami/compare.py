"""The features in a database compared with those of a run: how many, and how similar.

Old features of another model have another length or another meaning. Features of another length are
counted and not compared; for the same length, the cosine tells whether they are of the same model.

Other extractors divide a vector by its sum before they store it, and a run stores it unchanged. So
both are divided by the sum of their absolute values before they are compared, as the index and the
tracks do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ami.join import DetectionCount, RowPair, features_of, is_null, read_pairs, require_source
from common.errors import SourceError
from pipelines.run import Run
from pipelines.sources.database.connect import name_of, open_database
from pipelines.sources.database.schema import read_tables

TOLERANCE = 1e-3
QUANTILES = {"least": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "most": 1.0}


@dataclass
class Comparison:
    """Result of a comparison; counts are of detections."""

    database: str  # its name
    dim: int  # length of the run's embeddings
    rows: int = 0  # of the run
    failed: int = 0  # rows of the run with an error; not compared
    gone: DetectionCount = field(default_factory=DetectionCount)  # deleted from the database
    # Whose image or box has changed since; not compared.
    moved: DetectionCount = field(default_factory=DetectionCount)
    missing: int = 0  # without old features
    # Whose old features cannot be used, by reason.
    unusable: dict[str, DetectionCount] = field(default_factory=dict)
    # Number of old features of another length than the run's, by length.
    other_dims: dict[int, int] = field(default_factory=dict)
    compared: int = 0  # with old features of the run's length
    equal: int = 0  # of them, those whose numbers all differ by at most TOLERANCE of the largest
    cosine: dict[str, float] | None = None  # quantiles over the compared; None where there are none


def compare_database(
    run: Path, url: str, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """Compare the database's ``cnn_features`` with the embeddings of a run.

    Args:
        run: folder of a finished run that was extracted from this database.
        url: of the database.
        progress: called with the number of rows compared and of all rows.

    Raises:
        RunError: the run is unfinished, or was not extracted from this database.
        SourceError: the database cannot be read, or has no such column.
        WorkError: it is locked, or failed while it was read.
    """
    opened, name = Run.open(run), name_of(url)
    require_source(opened, name)
    result = Comparison(name, opened.manifest.model.feature_dim)
    dims: Counter[int] = Counter()
    cosines: list[float] = []
    with open_database(url) as connection:
        tables = read_tables(connection, url)
        if "cnn_features" not in tables.detections.c:
            raise SourceError(f"{name}: table 'detections' has no column 'cnn_features' to compare")
        for chunk in read_pairs(opened, connection, tables, columns=[], stored=["cnn_features"]):
            for pair in chunk:
                old = _old_features(pair, result)
                if old is None:
                    continue
                if len(old) != len(pair.embedding):
                    dims[len(old)] += 1
                    continue
                new = pair.embedding.astype(np.float64)
                # Rounding alone makes the cosine of equal vectors more than 1.
                cosine = float(old @ new / (np.linalg.norm(old) * np.linalg.norm(new)))
                cosines.append(min(1.0, cosine))
                result.equal += _equal(old, new)
            progress(result.rows, opened.manifest.rows.written)
    result.other_dims = dict(sorted(dims.items()))
    result.compared = len(cosines)
    if cosines:
        result.cosine = {
            label: float(value)
            for label, value in zip(
                QUANTILES, np.quantile(cosines, list(QUANTILES.values())), strict=True
            )
        }
    return result


def _equal(old: NDArray[np.float64], new: NDArray[np.float64]) -> bool:
    a, b = (vector / np.abs(vector).sum() for vector in (old, new))
    return bool(np.abs(a - b).max() <= TOLERANCE * np.abs(b).max())


def _old_features(pair: RowPair, result: Comparison) -> NDArray[np.float64] | None:
    """Old features that can be compared; else None, and the reason is counted in ``result``."""
    result.rows += 1
    detection_id = pair.run_row["detection_id"]
    if pair.run_row["error"] is not None:
        result.failed += 1
    elif pair.stored is None:
        result.gone.add(detection_id)
    elif pair.changed:
        result.moved.add(detection_id)
    elif is_null(pair.stored.cnn_features):
        result.missing += 1
    else:
        try:
            old = features_of(pair.stored.cnn_features)
            if not pair.embedding.any():
                raise ValueError("all zero in the run")
            return old
        except ValueError as error:
            result.unusable.setdefault(str(error), DetectionCount()).add(detection_id)
    return None
