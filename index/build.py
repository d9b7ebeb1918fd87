"""Build one snapshot from finished runs: check everything, measure recall, then publish.

The vectors are read twice. The first pass only looks (duplicates, zero vectors, a factory that
does not work), so that a refusal leaves the disk as it was. The second fills the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.errors import SnapshotError
from index.factory import (
    METRICS,
    Metric,
    check_scores,
    choose_factory,
    full_name,
    make_index,
    reason_of,
    train,
    training_rows,
)
from index.publish import locked, publish
from index.recall import ExactKnn, tune
from index.snapshot import (
    MANIFEST,
    ROWS,
    ROWS_SCHEMA,
    VECTORS,
    RecallFacts,
    RunEntry,
    Snapshot,
    SnapshotManifest,
    current_version,
    list_versions,
    read_manifest,
)
from index.vectors import l1_normalise
from pipelines.records import sha256_file, write_atomic
from pipelines.run import Run

RECALL_K = 10
HELD_OUT = 200  # queries kept aside: recall@10 over 2,000 neighbours, good to about 0.01
PROBED = 1024  # rows a factory is tried on before it is believed
SEED = 20_240_501  # the same rows give the same snapshot


@dataclass(frozen=True)
class _Plan:
    """What the first pass learned; all row numbers count good rows in the order of the runs."""

    runs: list[Run]
    rows_of_run: list[int]
    skipped: int
    held_out: NDArray[np.bool_]  # [N]
    queries: NDArray[np.float32]  # [Q, D] the held-out vectors, L1-normalised
    index: Any  # trained, empty
    factory: str


def build_index(
    runs: Sequence[Path],
    out: Path,
    *,
    metric: Metric = "cosine",
    factory: str = "auto",
    recall: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Build the next version of the index in ``out`` from ``runs`` and make it the current one.

    Rows that have an error carry no embedding: they are left out and counted in the manifest.
    Recall is measured with up to 200 rows held out as queries, which join the index at the end.
    Where it misses its target the snapshot is built all the same and ``manifest.warning`` says so.

    Args:
        runs: folders of finished runs made by one model.
        out: index folder; made when it does not exist.
        metric: ``cosine`` or ``l1``.
        factory: ``auto``, or any FAISS factory string that works for the metric.
        recall: recall@10 to tune the search for, above 0 and up to 1.
        progress: called with (rows added, rows in all) after each batch.

    Raises:
        SnapshotError: nothing was written, and the message says what does not fit.
        RunError: one of ``runs`` is no finished run.
        WorkError: the disk refused; ``out`` serves what it served before.
    """
    began = time.monotonic()
    if metric not in METRICS:
        raise SnapshotError(f"metric {metric!r} is unknown; give one of {', '.join(METRICS)}")
    if not 0 < recall <= 1:
        raise SnapshotError(f"recall is {recall:g}; give a share above 0 and up to 1, as 0.95")
    opened = _open(runs)
    out = Path(out)
    _check_folder(out, opened[0], metric)
    plan = _look(opened, metric, factory)
    with locked(out):
        _check_folder(out, opened[0], metric)  # another build may have ended meanwhile
        version = publish(
            out,
            lambda draft, version: _write(draft, plan, version, metric, recall, progress, began),
        )
    return Snapshot.open(out, version)


def _open(paths: Sequence[Path]) -> list[Run]:
    if not paths:
        raise SnapshotError("no run was given; give one or more folders made by 'onepass extract'")
    runs = [Run.open(path) for path in paths]
    first = runs[0].manifest
    for run in runs[1:]:
        facts = run.manifest
        if facts.fingerprint != first.fingerprint:
            raise SnapshotError(
                f"{run.path} has model fingerprint {facts.fingerprint}, {runs[0].path} has "
                f"{first.fingerprint}: vectors of two models cannot be compared; build one "
                "index for each, or bring one run over with 'onepass migrate'"
            )
        if facts.model.feature_dim != first.model.feature_dim:
            raise SnapshotError(
                f"{run.path} holds vectors of dimension {facts.model.feature_dim}, "
                f"{runs[0].path} of {first.model.feature_dim}; build one index for each"
            )
    return runs


def _check_folder(out: Path, run: Run, metric: Metric) -> None:
    """Refuse a folder that is no index, or whose current snapshot holds other vectors."""
    if not out.exists():
        return
    if not out.is_dir():
        raise SnapshotError(f"{out} is a file; give a folder for the index")
    version = current_version(out)
    if version is None:
        other = [e.name for e in out.iterdir() if not e.name.startswith(".")]
        if other and not list_versions(out):
            raise SnapshotError(
                f"{out} holds {sorted(other)[0]!r} and is no index; give a new or empty folder"
            )
        return
    there = read_manifest(out, version)
    for what, old, new in (
        ("dimension", there.dim, run.manifest.model.feature_dim),
        ("metric", there.metric, metric),
        ("model fingerprint", there.fingerprint, run.manifest.fingerprint),
    ):
        if old != new:
            raise SnapshotError(
                f"{out} serves {version} of {what} {old}, this build has {new}; "
                "give another folder with --out"
            )


def _look(runs: list[Run], metric: Metric, factory: str) -> _Plan:
    """Read everything once, write nothing: refuse what cannot work, gather the samples."""
    rows_of_run, skipped = _count(runs)
    total, dim = sum(rows_of_run), runs[0].manifest.model.feature_dim
    name = choose_factory(total, dim) if factory.strip() == "auto" else factory
    index = make_index(name, dim, metric)

    random = np.random.default_rng(SEED)
    shuffled = random.permutation(total)
    queries = min(HELD_OUT, max(1, total // 5)) if total > 1 else 0
    sampled = max(training_rows(index, total - queries), min(PROBED, total - queries))
    held_out, in_sample = np.zeros(total, bool), np.zeros(total, bool)
    held_out[shuffled[:queries]] = True
    in_sample[shuffled[queries : queries + sampled]] = True

    asked: list[NDArray[np.float32]] = []
    sample: list[NDArray[np.float32]] = []
    start = 0
    for _, batch in _good_rows(runs, ["detection_id"]):
        vectors = l1_normalise(_vectors(batch, dim), batch["detection_id"].to_pylist())
        part = slice(start, start + len(vectors))
        asked.append(vectors[held_out[part]])
        sample.append(vectors[in_sample[part]])
        start += len(vectors)
    if start != total:
        raise SnapshotError(
            f"{start} rows hold an embedding but {total} have no error; a run is damaged: "
            "check with 'onepass inspect RUN --verify'"
        )
    asked_all, sample_all = np.concatenate(asked), np.concatenate(sample)
    train(index, sample_all, name, metric)
    # Mixed by drawing, but stored in order: every k-th row spreads the trial over all runs.
    probed = sample_all[:: max(1, len(sample_all) // PROBED)]
    check_scores(index, probed, asked_all[:32] if queries else probed[:1], name, metric)
    return _Plan(runs, rows_of_run, skipped, held_out, asked_all, index, full_name(name, metric))


def _count(runs: list[Run]) -> tuple[list[int], int]:
    """Good rows of each run and rows to skip; refuses ids that stand twice."""
    ids: list[pa.Array] = []
    rows_of_run: list[int] = []
    skipped = 0
    for run in runs:
        good = 0
        for batch in run.batches(["detection_id", "error"], batch_rows=65_536):
            kept = batch.filter(pc.is_null(batch["error"]))
            ids.append(kept["detection_id"].cast(pa.string()))
            good += kept.num_rows
            skipped += batch.num_rows - kept.num_rows
        if not good:
            raise SnapshotError(
                f"{run.path} has no row with an embedding ({run.manifest.rows.failed} rows have "
                "an error); see them with 'onepass inspect'"
            )
        rows_of_run.append(good)
    all_ids = pa.chunked_array(ids, pa.string())
    counts = pc.value_counts(all_ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        name = repeated[0]["values"]
        at = np.flatnonzero(pc.equal(all_ids, name).to_numpy())
        owners = np.searchsorted(np.cumsum(rows_of_run), at, side="right")
        places = ", ".join(str(runs[int(owner)].path) for owner in owners)
        raise SnapshotError(
            f"detection_id {name.as_py()!r} stands {len(at)} times (in {places}; {len(repeated)} "
            "ids are repeated in all); an id names one row: leave one of the runs out"
        )
    return rows_of_run, skipped


def _good_rows(runs: list[Run], columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of rows without an error, with the place of their run; never an empty one."""
    for number, run in enumerate(runs):
        for batch in run.batches([*columns, "embedding", "error"]):
            good = batch.filter(
                pc.and_(pc.is_null(batch["error"]), pc.is_valid(batch["embedding"]))
            )
            if good.num_rows:
                yield number, good


def _vectors(batch: pa.RecordBatch, dim: int) -> NDArray[np.floating]:
    """Embeddings of a batch, [N, dim], without a copy."""
    column = batch["embedding"]
    if not pa.types.is_fixed_size_list(column.type) or column.type.list_size != dim:
        raise SnapshotError(
            f"column 'embedding' is {column.type}, the run's manifest says {dim} values a row; "
            "the run is damaged: check with 'onepass inspect RUN --verify'"
        )
    vectors: NDArray[np.floating] = column.flatten().to_numpy().reshape(-1, dim)
    return vectors


def _write(
    draft: Path,
    plan: _Plan,
    version: str,
    metric: Metric,
    target: float,
    progress: Callable[[int, int], None] | None,
    began: float,
) -> None:
    """Fill the index, tune it, and write the three files of a version into ``draft``."""
    index, total = plan.index, len(plan.held_out)
    base = total - len(plan.queries)
    truth = ExactKnn(plan.queries, min(RECALL_K, base), metric)
    model = plan.runs[0].manifest.model
    columns = [name for name in ROWS_SCHEMA.names if name != "run"]
    late: list[pa.RecordBatch] = []
    start = 0
    with pa.ipc.new_file(draft / ROWS, ROWS_SCHEMA) as rows:
        for number, batch in _good_rows(plan.runs, columns):
            ids = batch["detection_id"].to_pylist()
            vectors = l1_normalise(_vectors(batch, model.feature_dim), ids)
            held = plan.held_out[start : start + len(vectors)]
            described = _described(batch, number)
            rows.write_batch(described.filter(pa.array(~held)))
            late.append(described.filter(pa.array(held)))
            truth.add(vectors[~held], index.ntotal)
            index.add(vectors[~held])
            start += len(vectors)
            if progress is not None:
                progress(index.ntotal, total)
        rows.write_table(pa.Table.from_batches(late, ROWS_SCHEMA).combine_chunks())
    params: dict[str, int] = {}
    measured: float | None = None
    if len(plan.queries):
        params, measured = tune(index, plan.queries, truth.hits(), target=target)
        index.add(plan.queries)
        if progress is not None:
            progress(total, total)
    try:
        faiss.write_index(index, str(draft / VECTORS))
    except RuntimeError as error:
        raise OSError(reason_of(error)) from error
    manifest = SnapshotManifest(
        version=version,
        metric=metric,
        factory=plan.factory,
        search_params=params,
        rows=total,
        skipped=plan.skipped,
        dim=model.feature_dim,
        recall=RecallFacts(
            k=min(RECALL_K, base), target=target, measured=measured, queries=len(plan.queries)
        ),
        model=model,
        fingerprint=plan.runs[0].manifest.fingerprint,
        runs=[
            RunEntry(path=str(run.path.resolve()), root=run.manifest.root, rows=count)
            for run, count in zip(plan.runs, plan.rows_of_run, strict=True)
        ],
        seconds=round(time.monotonic() - began, 3),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"faiss": faiss.__version__, "numpy": np.__version__},
        files={name: sha256_file(draft / name) for name in (VECTORS, ROWS)},
    )
    write_atomic(draft / MANIFEST, manifest.model_dump_json(indent=2).encode())


def _described(batch: pa.RecordBatch, run: int) -> pa.RecordBatch:
    """Columns of rows.arrow for a batch of run number ``run``."""
    given = [batch[name].cast(ROWS_SCHEMA.field(name).type) for name in ROWS_SCHEMA.names[1:]]
    number = pa.array(np.full(batch.num_rows, run, np.int16))
    return pa.RecordBatch.from_arrays([number, *given], schema=ROWS_SCHEMA)
