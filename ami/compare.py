"""The features a database holds beside those of a run: how many, and how alike.

Old features of another model have another length or another meaning. A length that differs is
counted and not compared; where it is the same, the cosine says whether they are of the same model.

Extractors that people run divide a vector by its sum before they store it, and a run stores it as
it came. So each is divided by the sum of its absolute values before two are called equal, as the
index and the tracks do that read them.
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
    """What comparing came to; counts are of detections.

    Attributes:
        database: its name.
        rows: of the run.
        failed: rows of the run without an embedding; not looked up further.
        gone: from the database.
        moved: detections whose image or box is another by now; not compared.
        missing: without old features.
        unusable: why old features are none, to the detections.
        other_dims: numbers of old features, where the run has another number of them.
        compared: with old features of the run's length.
        equal: of them, those whose numbers all differ by ``TOLERANCE`` of the largest at most.
        cosine: quantiles over the compared; None where there are none.
    """

    database: str
    dim: int
    rows: int = 0
    failed: int = 0
    gone: DetectionCount = field(default_factory=DetectionCount)
    moved: DetectionCount = field(default_factory=DetectionCount)
    missing: int = 0
    unusable: dict[str, DetectionCount] = field(default_factory=dict)
    other_dims: dict[int, int] = field(default_factory=dict)
    compared: int = 0
    equal: int = 0
    cosine: dict[str, float] | None = None


def compare_database(
    path: Path, url: str, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """Hold the database's ``cnn_features`` against the embeddings of a run.

    Raises:
        RunError: no finished run, or one that was not extracted from this database.
        SourceError: the database cannot be read, or has no such column.
        WorkError: it is locked, or failed while it was read.
    """
    run, name = Run.open(path), name_of(url)
    require_source(run, name)
    made = Comparison(name, run.manifest.model.feature_dim)
    dims: Counter[int] = Counter()
    cosines: list[float] = []
    with open_database(url) as connection:
        tables = read_tables(connection, url)
        if "cnn_features" not in tables.detections.c:
            raise SourceError(f"{name}: table 'detections' has no column 'cnn_features' to compare")
        for chunk in read_pairs(run, connection, tables, columns=[], stored=["cnn_features"]):
            for pair in chunk:
                old = _old_features(pair, made)
                if old is None:
                    continue
                if len(old) != len(pair.embedding):
                    dims[len(old)] += 1
                    continue
                new = pair.embedding.astype(np.float64)
                # Rounding alone makes the cosine of equal vectors more than 1.
                cosine = float(old @ new / (np.linalg.norm(old) * np.linalg.norm(new)))
                cosines.append(min(1.0, cosine))
                made.equal += _equal(old, new)
            progress(made.rows, run.manifest.rows.written)
    made.other_dims = dict(sorted(dims.items()))
    made.compared = len(cosines)
    if cosines:
        made.cosine = {
            label: float(value)
            for label, value in zip(
                QUANTILES, np.quantile(cosines, list(QUANTILES.values())), strict=True
            )
        }
    return made


def _equal(old: NDArray[np.float64], new: NDArray[np.float64]) -> bool:
    a, b = (vector / np.abs(vector).sum() for vector in (old, new))
    return bool(np.abs(a - b).max() <= TOLERANCE * np.abs(b).max())


def _old_features(pair: RowPair, made: Comparison) -> NDArray[np.float64] | None:
    """Old features that can be compared; None, and counted why, where there are none."""
    made.rows += 1
    name = pair.ours["detection_id"]
    if pair.ours["error"] is not None:
        made.failed += 1
    elif pair.theirs is None:
        made.gone.add(name)
    elif pair.other:
        made.moved.add(name)
    elif is_null(pair.theirs.cnn_features):
        made.missing += 1
    else:
        try:
            old = features_of(pair.theirs.cnn_features)
            if not pair.embedding.any():
                raise ValueError("all zero in the run")
            return old
        except ValueError as error:
            made.unusable.setdefault(str(error), DetectionCount()).add(name)
    return None
