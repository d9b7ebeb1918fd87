"""``build_index`` in Python: an index of runs, or of vectors that were made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.executors import ExecutorChoice
from common.json_models import configure
from common.moved import Moved, read_pairs
from common.sizes import parse_size
from index.build.version import build_index as build_version
from index.config import IndexConfig, Metric
from onepass.arguments import pairs_of, read_path, read_sources, show_progress, warn
from onepass.search import Index
from pipelines.run import Run


def build_index(
    runs: Run | str | Path | Sequence[Run | str | Path],
    out: str | Path,
    *,
    metric: Metric = "cosine",
    factory: str = "auto",
    recall: float = 0.95,
    shards: int = 1,
    memory: str | int | None = None,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    candidate: bool = False,
    strict: bool = False,
    id_column: str | None = None,
    model: str | None = None,
    images: Moved = None,
    progress: bool = True,
) -> Index:
    """Build a new version of an index from finished runs or files of vectors, and serve it.

    Recall is measured on held-out queries while building.

    Args:
        runs: one run or several of the same model, opened or by their folders; or files of vectors
            that were made elsewhere: Parquet or Arrow with columns ``embedding`` and
            ``detection_id`` or ``id``; ``x.npy`` with ``x.ids.txt`` or ``x.ids.npy``; HDF5 with
            ``features``.
        out: the index folder; a new version is added to it.
        metric: between L1-normalised embeddings: ``cosine``, inner product ``ip``, ``l1``, ``l2``.
        factory: ``auto``, or a FAISS factory string such as ``PCA256,IVF1024,SQ8``.
        recall: recall@10 to tune the search for, above 0 and up to 1.
        shards: parts that a service on Ray searches in parallel.
        memory: of one process, as ``"2GB"`` or in bytes; None: half of the machine's.
        executor: where to work.
        address: of a Ray cluster to work on.
        candidate: keep serving the current version; ``Index.promote`` serves this one, which may
            be of another model.
        strict: refuse vectors that are zero or not finite; otherwise they are left out, counted in
            ``manifest.skipped_reasons``, and the first of them are named by a warning.
        id_column: of files: the column with the ids, text or whole numbers.
        model: of files: what made the vectors, in your words. Vectors of two names do not share an
            index.
        images: folders of images that were moved: old folder to new folder.
        progress: show a bar.

    Returns:
        The new version, open.

    Raises:
        InputError: an argument is wrong, or the runs do not fit each other or the index.
        WorkError: the disk refused; the index serves what it served before.

    Example:
        >>> index = onepass.build_index("runs/first", "photos.index", progress=False)
        >>> index
        Index('photos.index', v0001: 12 vectors of 32, cosine, tiny)
    """
    paths = read_sources("runs", runs)
    config = configure(IndexConfig, metric=metric, factory=factory, recall=recall, shards=shards)
    with show_progress(progress) as report:
        snapshot = build_version(
            paths,
            read_path("out", out),
            config,
            memory_bytes=parse_size(memory),
            executor=executor,
            address=address,
            candidate=candidate,
            strict=strict,
            id_column=id_column,
            model_name=model,
            pairs=(*read_pairs(images), *pairs_of(runs)),
            progress=lambda done, total: report("index", done, total),
        )
    manifest = snapshot.manifest
    warn([*manifest.notes, *([manifest.warning] if manifest.warning else [])])
    return Index(snapshot)
