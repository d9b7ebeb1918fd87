"""The file of exact vectors: filled in any order it is FAISS's own, byte for byte."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from index.config import Metric
from index.metrics import faiss_metric, prepare
from index.storage import store
from tests.helpers.indexes import embeddings

ROWS, DIM = 101, 32


@pytest.mark.parametrize("metric", ["cosine", "ip", "l1", "l2"])
def test_slices_out_of_order_give_the_file_that_faiss_writes(
    tmp_path: Path, metric: Metric
) -> None:
    vectors = prepare(embeddings(ROWS), [""] * ROWS, metric)
    file = tmp_path / "vectors.faiss"
    store.create(file, ROWS, DIM, metric)
    for first, last in ((64, 101), (0, 1), (17, 64), (1, 17), (5, 5)):
        store.write(file, first, vectors[first:last], metric)
    whole = faiss.IndexFlat(DIM, faiss_metric(metric))
    whole.add(vectors)
    faiss.write_index(whole, str(tmp_path / "whole.faiss"))
    assert file.read_bytes() == (tmp_path / "whole.faiss").read_bytes()
    opened = store.open_store(file)
    assert (opened.ntotal, opened.d, opened.metric_type) == (ROWS, DIM, faiss_metric(metric))
    for mine, theirs in zip(
        opened.search(vectors[:9], 5), whole.search(vectors[:9], 5), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_what_is_not_contiguous_is_written_as_it_reads(tmp_path: Path) -> None:
    vectors = embeddings(ROWS)[::-2, ::2].astype(np.float32)
    file = tmp_path / "vectors.faiss"
    store.create(file, len(vectors), 16, "l2")
    store.write(file, 0, vectors, "l2")
    np.testing.assert_array_equal(store.open_store(file).reconstruct_n(0, len(vectors)), vectors)


def test_new_file_takes_no_disk_and_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "vectors.faiss"
    store.create(file, 1_000_000, 256, "cosine")
    assert file.stat().st_size > 1_000_000_000
    assert file.stat().st_blocks * 512 < 1_000_000
    with pytest.raises(FileExistsError):
        store.create(file, 5, 256, "cosine")


@pytest.mark.parametrize("size", [0, 3, 40, 1000])
def test_file_that_is_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    file = tmp_path / "vectors.faiss"
    store.create(file, ROWS, DIM, "cosine")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RuntimeError):
        store.open_store(file)


def test_another_layout_of_faiss_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = faiss.serialize_index
    monkeypatch.setattr(faiss, "serialize_index", lambda index: np.append(real(index), np.uint8(0)))
    with pytest.raises(RuntimeError, match="lays a flat index out in another way"):
        store.create(tmp_path / "vectors.faiss", ROWS, DIM, "cosine")
