"""Choose, make and check a FAISS index, and set the one knob it is searched with.

FAISS takes factory strings it then answers wrongly: ``PQ8`` asked for L1 ranks by inner product,
``HNSW32,PQ8`` asked for L1 ranks by squared L2, and ``L2norm,IVF…,RFlat`` refines on vectors the
``L2norm`` never touched. None of them raises. So no string is trusted: ``check_scores`` compares
what the index answers with the metric's own definition, on the user's vectors, before a build.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from cluster.errors import SnapshotError

Metric = Literal["cosine", "l1"]
METRICS: tuple[str, ...] = get_args(Metric)

FLAT_VALUES = 20_000 * 1_280
"""``auto`` searches exactly up to this many stored values (rows x dimension; 100 MB).

Measured at that size on two shared cores: exact 42 ms a query alone and 2 ms in a batch, built in
0.2 s; HNSW32 0.6 ms, built in 22 s. Below it, waiting for a graph costs more than it saves.
"""

REFINE_FACTOR = 8
"""A refining index (``…,RFlat``) re-ranks this many candidates per wanted neighbour.

FAISS's own default is 1, which re-ranks the answer without ever changing who is in it.
"""

EF_SEARCH = (16, 1024)  # FAISS's default, and where a query costs as much as an exact one
EXAMPLES = "Flat, HNSW32, IVF1024,Flat, IVF1024,SQ8"

_faiss: Any = faiss  # its type stubs know neither keyword arguments nor SWIG vectors

_MAX_SCORE_ERROR = 0.5  # lossy codes stay below 0.2, a wrong metric is above 0.9


def choose_factory(rows: int, dim: int) -> str:
    """Pick ``Flat`` or ``HNSW32`` for ``rows`` vectors of ``dim`` values."""
    return "Flat" if rows * dim <= FLAT_VALUES else "HNSW32"


def full_name(factory: str, metric: Metric) -> str:
    """Factory string as the manifest tells it: with ``L2norm,`` in front for cosine."""
    bare = factory.strip().removeprefix("L2norm,")
    return f"L2norm,{bare}" if metric == "cosine" else factory.strip()


def make_index(factory: str, dim: int, metric: Metric) -> Any:
    """Make an empty index over L1-normalised vectors; it may still need training.

    cosine is inner product behind an L2 normalisation. Inner product on L1-normalised vectors
    alone is *not* cosine: it favours vectors whose values are concentrated, since those are
    longer in L2. The normalisation is put around the whole index rather than into the string,
    where FAISS would leave a refining index outside of it.

    Raises:
        SnapshotError: FAISS knows no such factory, or not for this metric or dimension.
    """
    name = full_name(factory, metric)
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L1
    try:
        index = faiss.index_factory(dim, name.removeprefix("L2norm,"), kind)
    except RuntimeError as error:
        raise _refused(factory, metric, dim, reason_of(error)) from None
    if name.startswith("L2norm,"):
        normalise = _faiss.NormalizationTransform(dim, 2.0)
        if isinstance(index, faiss.IndexPreTransform):
            index.prepend_transform(normalise)
            normalise.this.disown()  # a chain from the factory frees its members itself
        else:
            index = faiss.IndexPreTransform(normalise, index)
    core = _core(index)
    if isinstance(core, faiss.IndexIVFFastScan):  # FAISS 1.15: a crash, not an exception
        raise _refused(
            factory, metric, dim, "loaded again, its vectors cannot be read; add ',RFlat'"
        )
    if isinstance(core, faiss.IndexRefine):
        core.k_factor = REFINE_FACTOR
    if (ivf := _find(index, faiss.IndexIVF)) is not None:
        ivf.make_direct_map(True)  # so that a row's vector can be read back by its id
    return index


def train(index: Any, sample: NDArray[np.float32], factory: str, metric: Metric) -> None:
    """Train ``index`` on ``sample`` [S, D] if it needs training.

    Raises:
        SnapshotError: FAISS refuses, most often for want of rows.
    """
    if index.is_trained:
        return
    try:
        index.train(sample)
    except RuntimeError as error:
        why = f"training on {len(sample)} rows: {reason_of(error)}"
        raise _refused(factory, metric, index.d, why) from None


def training_rows(index: Any, rows: int) -> int:
    """How many of ``rows`` to train on: 0 for an index that learns nothing."""
    if index.is_trained:
        return 0
    ivf = _find(index, faiss.IndexIVF)
    # FAISS wants 39 points a list, and 256 codes x 39 for a product quantiser.
    return min(rows, max(65_536, 40 * ivf.nlist if ivf is not None else 0))


def check_scores(
    index: Any,
    sample: NDArray[np.float32],
    queries: NDArray[np.float32],
    factory: str,
    metric: Metric,
) -> None:
    """Refuse a trained, empty index whose scores are not the metric's.

    Args:
        index: left as it is; a copy is filled.
        sample: [S, D] L1-normalised vectors to search in.
        queries: [Q, D] L1-normalised vectors to search for.
        factory: as the user wrote it, for the refusal.
        metric: what the scores must mean.

    Raises:
        SnapshotError: the scores mean something else, or FAISS cannot add to, search or read
            back from such an index.
    """
    half = len(sample) // 2
    try:
        # Through bytes: clone_index knows no NormalizationTransform, and it must be storable.
        trial = faiss.deserialize_index(faiss.serialize_index(index))
        for part in (sample[:half], sample[half:]):  # twice, since NSG takes vectors only once
            if len(part):
                trial.add(part)
        scores, rows = trial.search(queries, min(10, len(sample)))
        trial.reconstruct(0)
    except RuntimeError as error:
        raise _refused(factory, metric, index.d, reason_of(error)) from None
    found = rows >= 0
    true = np.take_along_axis(exact_scores(queries, sample, metric), np.maximum(rows, 0), axis=1)
    off = np.abs(scores - true)[found].mean() / max(float(np.abs(true)[found].mean()), 1e-6)
    if not off <= _MAX_SCORE_ERROR:
        why = f"its scores are off by {off:.0%} on these vectors: it measures something else"
        raise _refused(factory, metric, index.d, why)


def comparable(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """L1-normalised vectors as brute force compares them: unit length in L2 for cosine."""
    if metric == "l1":
        return vectors
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def exact_scores(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric
) -> NDArray[np.float32]:
    """Score of every query with every vector, [Q, N], by the definition of the metric."""
    left, right = comparable(queries, metric), comparable(vectors, metric)
    scores: NDArray[np.float32] = (
        left @ right.T
        if metric == "cosine"
        else faiss.pairwise_distances(
            np.ascontiguousarray(left), np.ascontiguousarray(right), faiss.METRIC_L1
        )
    )
    return scores


@dataclass(frozen=True)
class Knob:
    """The one search parameter worth tuning: higher finds more and takes longer."""

    name: Literal["efSearch", "nprobe"]
    start: int
    limit: int

    def ladder(self) -> list[int]:
        """Values to try: doubling from ``start``, ending at ``limit``."""
        values = [self.start]
        while values[-1] < self.limit:
            values.append(min(2 * values[-1], self.limit))
        return values


def knob_of(index: Any) -> Knob | None:
    """The knob of an index: ``nprobe`` for IVF, ``efSearch`` for HNSW, None for the rest."""
    if (ivf := _find(index, faiss.IndexIVF)) is not None:
        return Knob("nprobe", 1, ivf.nlist)
    if _find(index, faiss.IndexHNSW) is not None:
        return Knob("efSearch", *EF_SEARCH)
    return None


def is_exact(index: Any) -> bool:
    """Whether every search of ``index`` is already an exhaustive one over unaltered vectors."""
    if isinstance(index, _faiss.IndexPreTransform) and index.chain.size() != 1:
        return False  # more than our L2 normalisation: a projection, say
    return isinstance(_core(index), faiss.IndexFlat)


def search_parameters(index: Any, values: dict[str, int]) -> Any:
    """FAISS parameters for one call; None when there is nothing to set.

    Given to each call rather than written into the index: queries of several threads share it.
    """
    if not values:
        return None
    if isinstance(index, faiss.IndexPreTransform):
        return _faiss.SearchParametersPreTransform(
            index_params=search_parameters(faiss.downcast_index(index.index), values)
        )
    if isinstance(index, faiss.IndexRefine):
        return _faiss.IndexRefineSearchParameters(
            k_factor=index.k_factor,
            base_index_params=search_parameters(faiss.downcast_index(index.base_index), values),
        )
    if "nprobe" in values:
        return _faiss.SearchParametersIVF(nprobe=values["nprobe"])
    return _faiss.SearchParametersHNSW(efSearch=values["efSearch"])


def reason_of(error: RuntimeError) -> str:
    """The human part of a FAISS exception, on one line."""
    text = " ".join(str(error).split())
    if "failed: " in text:
        return text.rsplit("failed: ", 1)[1] or text
    return text.rsplit(": ", 1)[-1].strip()


def _core(index: Any) -> Any:
    return (
        faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    )


def _find(index: Any, kind: Any) -> Any:
    """The part of a wrapped index that is of ``kind``; None when there is none."""
    core = _core(index)
    if isinstance(core, faiss.IndexRefine):
        core = faiss.downcast_index(core.base_index)
    return core if isinstance(core, kind) else None


def _refused(factory: str, metric: Metric, dim: int, why: str) -> SnapshotError:
    return SnapshotError(
        f"factory {factory!r} does not work for metric {metric!r} in {dim} dimensions ({why}); "
        f"give 'auto' or a FAISS string such as {EXAMPLES}"
    )
