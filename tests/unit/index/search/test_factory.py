"""Which index is made for which rows, and which strings are refused."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from common.errors import SnapshotError
from index.config import Metric
from index.metrics import prepare
from index.search.factory import (
    choose_factory,
    has_exact_scores,
    is_flat,
    is_mergeable,
    lists_bytes,
    make_index,
    train,
    training_rows,
)

GB = 2**30
DIM = 16


@pytest.mark.parametrize(
    ("rows", "dim", "metric", "memory", "expected"),
    [
        (2_000, 1280, "cosine", 8 * GB, "Flat"),
        (2_001, 1280, "cosine", 8 * GB, "HNSW32,SQ8"),
        (50_001, 1280, "cosine", GB // 10, "IVF256,PQ320x4fsr"),
        (10_000, 256, "l1", 8 * GB, "Flat"),
        (10_001, 256, "l1", 8 * GB, "HNSW32"),
        (199_999, 256, "cosine", 8 * GB, "HNSW32,SQ8"),
        (200_000, 256, "cosine", 8 * GB, "HNSW16,SQbf16"),
        (2_000_000, 256, "cosine", 8 * GB, "HNSW16,SQbf16"),
        (2_000_001, 256, "ip", 8 * GB, "IVF2048_HNSW32,PQ128x4fsr"),
        (1_000_000, 1280, "l2", 2 * GB, "IVF2048_HNSW32,PQ320x4fsr"),
        (1_000_000, 1536, "cosine", 2 * GB, "IVF2048_HNSW32,PQ192x4fsr"),
        (3_000_000, 1021, "cosine", 8 * GB, "IVF2048_HNSW32,SQ8"),  # nothing divides it
        (3_000_000, 1022, "cosine", 8 * GB, "IVF2048_HNSW32,SQ8"),  # 511 halves are too many
        (1_000_000, 256, "cosine", GB // 8, "IVF2048_HNSW32,PQ64"),  # lists on the disk
        (1_000_000, 256, "l1", GB, "IVF2048,Flat"),  # FAISS trains no graph of centres for l1
        (1_000_000, 256, "l1", 8 * GB, "HNSW16"),
        (1, 4096, "cosine", GB, "Flat"),
    ],
)
def test_auto_chooses_by_rows_dimension_metric_and_memory(
    rows: int, dim: int, metric: Metric, memory: int, expected: str
) -> None:
    assert choose_factory(rows, dim, metric, memory) == expected
    assert is_flat(expected) == (expected == "Flat")
    make_index(expected, dim, metric)


def test_codes_stay_in_memory_up_to_half_of_it() -> None:
    size = lists_bytes(1_000_000, 64)
    assert choose_factory(1_000_000, 256, "cosine", 2 * size).endswith("PQ128x4fsr")
    assert choose_factory(1_000_000, 256, "cosine", 2 * size - 1).endswith("PQ64")


@pytest.mark.parametrize("metric", ["cosine", "ip", "l1", "l2"])
@pytest.mark.parametrize("memory", [2**26, 8 * GB])
def test_what_auto_chooses_can_be_trained(metric: Metric, memory: int) -> None:
    """With a number of lists that a few rows can train: the rest of the string is what matters."""
    lists = "IVF2048"
    name = choose_factory(1_000_000, DIM, metric, memory).replace(lists, "IVF4")
    index = make_index(name, DIM, metric)
    vectors = prepared(400, metric)
    train(index, vectors, name, metric)
    index.add(vectors)
    assert index.ntotal == 400


@pytest.mark.parametrize(
    ("factory", "metric", "why"),
    [
        ("Bogus", "cosine", "could not parse"),
        ("PQ7", "cosine", "multiple"),
        ("", "cosine", ""),
        ("IVF8,PQ4x4,Refine(SQ8)", "cosine", "refining index is not needed"),
        ("IDMap,Flat", "cosine", "rows are numbered here already"),
        ("PQ4x4", "l1", "ranks by something else"),
        ("HNSW16,PQ4x4", "cosine", "FAISS makes it for another metric"),
        ("HNSW32,PQ4x4", "l1", "ranks by something else"),
        ("PCA8,Flat", "l1", "ranks by something else"),
        ("SQ8", "l1", "ranks by something else"),
        ("LSH", "ip", "METRIC_L2"),
    ],
)
def test_bad_string_is_refused_on_one_line(factory: str, metric: Metric, why: str) -> None:
    with pytest.raises(SnapshotError, match="does not work for metric") as caught:
        make_index(factory, DIM, metric)
    message = str(caught.value)
    assert f"{factory!r}" in message
    assert f"{metric!r} in 16 dimensions" in message
    assert why in message
    assert "\n" not in message


def test_parts_that_every_index_has_may_be_written_and_change_nothing() -> None:
    for name in (" L2norm,HNSW32 ", "HNSW32,RFlat", "L2norm,HNSW32,RFlat"):
        assert isinstance(make_index(name, DIM, "cosine"), faiss.IndexHNSWFlat)
    assert is_flat("L2norm,Flat")


@pytest.mark.parametrize(
    ("factory", "merges", "scores"),
    [
        ("Flat", False, True),
        ("HNSW32", False, True),
        ("IVF4,Flat", True, True),
        ("IVF4_HNSW8,Flat", True, True),
        ("IVF4,SQ8", True, False),
        ("IVF4,PQ8x4fsr", True, False),
        ("PCA8,IVF4,Flat", True, False),
        ("OPQ8,IVF4,PQ8x4fsr", True, False),
        ("PCA8,HNSW8", False, False),
        ("HNSW8,SQ8", False, False),
        ("SQ8", False, False),
        ("PQ4x4", False, False),
        ("NSG16", False, False),
    ],
)
def test_which_can_be_merged_and_which_score_exactly(
    factory: str, merges: bool, scores: bool
) -> None:
    index = make_index(factory, DIM, "cosine")
    assert (is_mergeable(index), has_exact_scores(index)) == (merges, scores)


def prepared(rows: int, metric: Metric) -> np.ndarray:
    raw = np.random.default_rng(3).normal(size=(rows, DIM))
    return prepare(raw, [""] * rows, metric)


def test_too_few_rows_to_train_is_refused() -> None:
    with pytest.raises(SnapshotError, match="training on 30 rows") as caught:
        train(
            make_index("IVF64,Flat", DIM, "cosine"), prepared(30, "cosine"), "IVF64,Flat", "cosine"
        )
    assert "\n" not in str(caught.value)


def test_training_takes_rows_enough_and_memory_no_more_than_a_quarter() -> None:
    assert training_rows(make_index("HNSW32", 256, "cosine"), 10**6, 256, GB) == 0
    lists: Any = make_index("IVF4096,Flat", 256, "cosine")
    assert training_rows(lists, 10**6, 256, 8 * GB) == 40 * 4096
    assert training_rows(lists, 1000, 256, 8 * GB) == 1000
    assert training_rows(lists, 10**6, 256, 2**26) == 2**26 // 4 // 1024
    assert training_rows(make_index("SQ8", 256, "cosine"), 10**6, 256, 8 * GB) == 65_536
