"""The candidates of one network: each (precision, engine) pair, loaded, timed and audited.

What an earlier run measured on this machine (``pipelines/models/cache.py``) is not measured again:
where that is all, the network is not even built.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from common.moved import ImageRoot
from pipelines.engines import compiled, openvino
from pipelines.engines.engine import DEFAULT_ROWS, Engine, this_device
from pipelines.images.decode import PIXELS, decode_rows, unpack
from pipelines.model_info import (
    EngineName,
    ModelInfo,
    ModelRequest,
    Outputs,
    Precision,
    PrecisionAudit,
)
from pipelines.models.base import Loaded
from pipelines.models.cache import CachedModel, Choice, ModelCache
from pipelines.models.registry import describe, load_backbone
from pipelines.request import Request

# Fewer rows give no stable time on a core; on a GPU they measure little but its launch latency.
_TIMED_ROWS = {"cpu": 8, "cuda": 256}
_BATCH_ROWS = {"cpu": DEFAULT_ROWS, "cuda": 256}


# The mean cosines that ``auto`` requires of half precision. Rounding moves an embedding by
# sqrt(2 (1 - cosine)) of its length: 4 % at 0.999, which is harmless for search but changed one
# class in 40; 1.4 % at 0.9999, which changed fewer than one in 200. Cosines of a few dozen images
# agree with those of thousands; counts of such rare changes do not.
LEAST_COSINE = 0.999
LEAST_COSINE_FOR_CLASSES = 0.9999


class EngineEstimate(NamedTuple):
    """What an engine gains and costs, from the networks measured in ``benchmarks/engines.py``."""

    speedup: float  # over eager, at least
    build_seconds: float


ESTIMATES: dict[str, dict[EngineName, EngineEstimate]] = {
    "cpu": {"openvino": EngineEstimate(1.5, 8.0), "compile": EngineEstimate(1.4, 60.0)},
    "cuda": {"compile": EngineEstimate(1.4, 90.0)},
}
_LOAD_SECONDS = 1.0  # of an engine that is built already
_LATER_RUNS = 8  # that share the cost of building an engine, because it stays on this machine


class Candidates:
    """One network of a run, in every precision and engine that is tried for it.

    Args:
        request: which network.
        outputs: the maps that are kept of it.
        sample: rows of the plan, to measure with.
        root: where the images are.
        lanes: threads that will call its engines at a time.
    """

    def __init__(
        self,
        request: ModelRequest,
        outputs: Outputs,
        sample: pa.Table,
        root: Path | ImageRoot,
        lanes: int = 1,
    ) -> None:
        self._request, self._outputs = request, outputs
        self._sample, self._root, self._lanes = sample, root, lanes
        self._cache = ModelCache(request, outputs)
        self._cached = self._cache.read()
        self._engines: dict[tuple[Precision, EngineName], Engine] = {}
        self._setup_seconds: dict[tuple[Precision, EngineName], float] = {}
        self._audits = dict(self._cached.audits) if self._cached else {}
        self._eager_seconds = dict(self._cached.seconds) if self._cached else {}
        self._load_seconds = self._cached.load_seconds if self._cached else 0.0
        self._choices = dict(self._cached.choices) if self._cached else {}

    @cached_property
    def loaded(self) -> Loaded:
        """The network, built.

        Raises:
            ModelError: it cannot be.
        """
        began = time.perf_counter()
        loaded = load_backbone(self._request)
        self._load_seconds = time.perf_counter() - began
        return loaded

    @cached_property
    def facts(self) -> ModelInfo:
        if self._cached is not None:
            return self._cached.facts
        return describe(self.loaded, self._request, self._outputs)

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        return self._cached.labels if self._cached is not None else self.loaded.labels

    @cached_property
    def has_classes(self) -> bool:
        """False: it is an encoder, whose "logits" are its features once more."""
        if self._cached is not None:
            return self._cached.has_classes
        own = getattr(self.loaded.backbone.model, "num_classes", None)
        return own != 0 or self.loaded.head is not None

    @cached_property
    def pixels(self) -> np.ndarray:
        """The readable images of the sample, uint8 ``[N, H, W, 3]`` at the network's size."""
        preprocess = self.facts.preprocess
        rows = decode_rows(self._sample, self._root, {PIXELS: preprocess})
        readable: np.ndarray = unpack(rows, PIXELS, preprocess)[np.asarray(rows["error"].is_null())]
        return readable

    def engine(self, precision: Precision, engine: EngineName) -> Engine:
        """The engine, loaded once, and built where this machine has not yet.

        Raises:
            ModelError: it cannot execute the network.
        """
        key = precision, engine
        if key not in self._engines:
            began = time.perf_counter()
            self._engines[key] = self.load(precision, engine, _BATCH_ROWS[this_device().type])
            self._setup_seconds[key] = time.perf_counter() - began
        return self._engines[key]

    def load(
        self,
        precision: Precision,
        engine: EngineName,
        batch_rows: int | None,
        memory_share: float = 1.0,
    ) -> Engine:
        """A new engine; the network is built only if it must be.

        Args:
            precision, engine: the candidate.
            batch_rows, memory_share: as of ``Engine``.
        """
        built = engine != "eager" and self.is_built(precision, engine)
        return Engine(
            self.facts,
            precision,
            engine,
            batch_rows=batch_rows,
            memory_share=memory_share,
            lanes=self._lanes,
            loaded=None if built else self.loaded,
        )

    def is_built(self, precision: Precision, engine: EngineName) -> bool:
        """Whether this machine's cache holds the built engine."""
        if engine == "openvino":
            return openvino.is_installed() and openvino.is_cached(self.facts)
        return engine == "compile" and compiled.is_cached(self.facts, precision, this_device())

    def build_seconds(self, precision: Precision, engine: EngineName) -> float:
        """Seconds spent on building the engine here, beyond what loading it again takes."""
        key = precision, engine
        if engine == "eager" or key not in self._setup_seconds:
            return 0.0
        began = time.perf_counter()
        self.load(precision, engine, _BATCH_ROWS[this_device().type])
        return max(0.0, self._setup_seconds[key] - (time.perf_counter() - began))

    def startup_seconds(self, precision: Precision, engine: EngineName) -> float:
        """Estimated seconds until the engine is ready; later runs share the cost of building it."""
        network = 0.0 if "loaded" in self.__dict__ else self._load_seconds
        if engine == "eager":
            return network
        if self.is_built(precision, engine):
            return _LOAD_SECONDS
        return network + ESTIMATES[this_device().type][engine].build_seconds / _LATER_RUNS

    def seconds_per_row(self, precision: Precision, engine: EngineName) -> float:
        """Measured seconds of the device for one row, with all of PyTorch's threads."""
        loaded = self.engine(precision, engine)
        count = _TIMED_ROWS[this_device().type]
        batch = np.resize(self.pixels, (count, *self.pixels.shape[1:]))  # the sample, repeated
        loaded(batch)  # the first call of a shape pays for its kernels
        began = time.perf_counter()
        loaded(batch)
        return (time.perf_counter() - began) / len(batch)

    def eager_seconds(self, precision: Precision) -> float:
        """Seconds of one core or the GPU for one row, in eager."""
        if precision not in self._eager_seconds:
            seconds = self.seconds_per_row(precision, "eager") * compute_threads()
            self._eager_seconds[precision] = seconds
        return self._eager_seconds[precision]

    @cached_property
    def _exact(self) -> tuple[np.ndarray, np.ndarray]:
        answers = self.engine("fp32", "eager")(self.pixels)
        return answers.embedding, answers.logits

    def audit(self, precision: Precision, engine: EngineName) -> PrecisionAudit | None:
        """How far the answers are from exact; None where they are exact, or there is no image.

        Half precision is measured on this run's own images. In float32 another engine rounds alike
        on any image, so an audit of an earlier run holds.
        """
        if (precision, engine) == ("fp32", "eager") or not len(self.pixels):
            return None
        name = f"{precision} {engine}"
        if precision != "fp32" or name not in self._audits:
            answers = self.engine(precision, engine)(self.pixels)
            self._audits[name] = compare(answers.embedding, answers.logits, *self._exact)
        return self._audits[name]

    def rejection(self, precision: Precision, audit: PrecisionAudit | None) -> str | None:
        """Why ``auto`` rejects the precision by this audit; None where it accepts it."""
        untrained = self.facts.weights.startswith("random") and self.facts.head is None
        classes_matter = self.has_classes and not untrained
        if audit is None or is_harmless(audit, classes_matter=classes_matter):
            return None
        return (
            f"{precision} moves the embeddings of {self._request.spec} to cosine "
            f"{audit.cosine_mean:.4f} of exact, enough to change classes; "
            f"`precision={precision!r}` trades that for speed"
        )

    def earlier_rejection(
        self, precision: Precision, engine: EngineName | Literal["auto"]
    ) -> str | None:
        """Why ``auto`` rejected the precision in an earlier run; None where it did not."""
        for name, audit in self._audits.items():
            tried, _, by = name.partition(" ")
            if tried == precision and engine in ("auto", by):
                rejection = self.rejection(precision, audit)
                if rejection is not None:
                    return rejection
        return None

    def save(self, request: Request | None, *, was_built: bool) -> None:
        """Store what was measured, and the choice where it suits any rows of later commands.

        Such a choice is float32, in eager where that was asked for, or in an OpenVINO network that
        ``was_built`` before and so costs a second at most. Half precision is audited on each
        run's images, and whether building an engine pays depends on their number.

        Args:
            request: the choice; None where it was not made for this network alone.
            was_built: whether the cache held the OpenVINO network before this run.
        """
        if request is not None and request.precision == "fp32":
            config, engine = request.config, request.engine
            cached = engine == "openvino" and was_built and request.audit is not None
            if cached or config.engine == engine == "eager":
                self._choices[f"{config.precision} {config.engine}"] = Choice(
                    engine=engine,
                    built=openvino.cache_name(self.facts) if cached else None,
                    audit=request.audit,
                    notes=request.notes,
                )
        measured = CachedModel(
            facts=self.facts,
            labels=self.labels,
            has_classes=self.has_classes,
            load_seconds=self._load_seconds,
            seconds=self._eager_seconds,
            audits=self._audits,
            choices=self._choices,
        )
        if measured != self._cached:
            self._cache.write(measured)


def compute_threads() -> int:
    """Threads of one call in this process; an actor or a lane has one."""
    return torch.get_num_threads() if this_device().type == "cpu" else 1


def compare(
    embedding: np.ndarray, logits: np.ndarray, exact_embedding: np.ndarray, exact: np.ndarray
) -> PrecisionAudit:
    """Compare the same rows computed in two ways.

    Args:
        embedding, logits: as rounded, ``[B, D]`` and ``[B, C]``.
        exact_embedding, exact: in float32.
    """
    a, b = embedding.astype(np.float64), exact_embedding.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return PrecisionAudit(
        rows=len(cosine),
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
        top1_agreement=float((logits.argmax(1) == exact.argmax(1)).mean()),
    )


def is_harmless(audit: PrecisionAudit, *, classes_matter: bool) -> bool:
    """Whether ``auto`` may use the audited format; random weights have no classes to keep."""
    return audit.cosine_mean >= (LEAST_COSINE_FOR_CLASSES if classes_matter else LEAST_COSINE)
