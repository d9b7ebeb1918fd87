"""A loaded model that answers batches of any size: on its device, in its precision.

Everything that runs a model uses ``Engine``: the actors of an extraction, a query by image, an
upload to the API. Therefore their embeddings agree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from pipelines.engines import compiled, openvino
from pipelines.model_info import EngineName, ModelInfo, Precision
from pipelines.models.base import Loaded
from pipelines.models.network import Network
from pipelines.models.registry import load_verified

DEFAULT_ROWS = 32  # of a batch: on a CPU more than a few dozen images gain nothing
_GAIN = 1.05  # a doubling that is not this much faster is not worth its memory
_SHARE = 0.8  # of free memory; the rest is for fragments of other batches

T = TypeVar("T")


class Answers(NamedTuple):
    """Float32 results: embeddings ``[B, D]``, logits ``[B, C]``, and each of ``facts.maps``."""

    embedding: np.ndarray
    logits: np.ndarray
    maps: tuple[np.ndarray, ...] = ()


class Engine:
    """A model on this process's device.

    Args:
        facts: of the run's model; other weights are refused.
        precision: what the network's body computes in.
        engine: how it is executed.
        batch_rows: images that go to the device at once; None: measured on a GPU.
        memory_share: share of the GPU's memory that one call may use.
        lanes: threads that will call it at a time; on a CPU each call has a core of its own.
        loaded: the model, where the caller has loaded it already.

    Raises:
        ModelError: weights or head here are not those the run was planned with, or the
            engine cannot execute the network.
    """

    def __init__(
        self,
        facts: ModelInfo,
        precision: Precision,
        engine: EngineName = "eager",
        *,
        batch_rows: int | None = None,
        memory_share: float = 1.0,
        lanes: int = 1,
        loaded: Loaded | None = None,
    ) -> None:
        self.facts = facts
        self.device = torch.device("cpu") if engine == "openvino" else this_device()
        # OpenVINO converts exact weights and gets the precision when it compiles.
        body: Precision = "fp32" if engine == "openvino" else precision

        def make() -> (
            Network
        ):  # where it must be: that costs seconds, and a built engine needs none
            own = loaded or load_verified(facts)
            return Network(own.backbone, facts, body, own.head)

        # uint8 ``[B, H, W, 3]`` on the device to the answers of ``Network.forward``, any ``B >= 1``;
        # two threads may call it at a time.
        self._execute: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
        if engine == "compile":
            self._execute = compiled.load(
                make, facts=facts, precision=precision, device=self.device, lanes=lanes
            )
        elif engine == "openvino":
            self._execute = openvino.load(make, facts=facts, precision=precision, lanes=lanes)
        else:  # nothing to build, the reference for the others
            self._execute = make().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._streams = threading.local()
        if self.device.type == "cuda":
            # PyTorch lets float32 convolutions run in TF32, which keeps ten bits; but float32 is
            # the reference of precision audits, and a user may request it by name.
            torch.backends.cudnn.allow_tf32 = False
        self._rows = batch_rows or self._measured_rows(memory_share)

    def __call__(
        self, pixels: np.ndarray, *, done: Callable[[int], None] = lambda rows: None
    ) -> Answers:
        """Answer upright RGB images.

        Two threads may call it at a time: one copies while the other computes.

        Args:
            pixels: uint8 ``[B, H, W, 3]``; any ``B``, also 0.
            done: receives the rows of each batch that is answered.
        """
        if not len(pixels):
            return self._no_answers()

        def answer(start: int, stop: int) -> list[np.ndarray]:
            outputs = self._run(pixels[start:stop])
            done(stop - start)
            return outputs

        parts, self._rows = in_batches(answer, len(pixels), self._rows)
        columns = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return Answers(columns[0], columns[1], tuple(columns[2:]))

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @torch.inference_mode()
    def _run(self, pixels: np.ndarray) -> list[np.ndarray]:
        with self._stream():
            if self.device.type == "cuda":
                # The copy engine reads page-locked memory without the CPU. This is the only copy
                # of pixels on the host.
                pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
                np.copyto(pinned.numpy(), pixels)
                batch = pinned.to(self.device, non_blocking=True)
            else:  # Arrow's memory is read-only, which PyTorch does not support and warns of
                batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
            outputs = self._execute(batch)
            # Only this thread waits for its stream; the other one continues with its own.
            return [tensor.cpu().numpy() for tensor in outputs]

    def _stream(self) -> AbstractContextManager[object]:
        """A CUDA stream of this thread's own, so that two calls overlap; nothing on a CPU."""
        if self.device.type != "cuda":
            return nullcontext()
        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._streams.own)

    def _measured_rows(self, memory_share: float) -> int:
        if self.device.type != "cuda":
            return DEFAULT_ROWS
        height, width = self.facts.preprocess.input_size
        blank = np.zeros((compiled.MOST_ROWS, height, width, 3), np.uint8)
        rows = find_batch_rows(lambda rows: self._run(blank[:rows]), CudaMemory(memory_share))
        # PyTorch keeps the memory for this thread's stream, and later calls have their own.
        torch.cuda.empty_cache()
        return rows

    def _no_answers(self) -> Answers:
        facts = self.facts
        return Answers(
            np.empty((0, facts.feature_dim), np.float32),
            np.empty((0, facts.num_classes), np.float32),
            tuple(np.empty((0, *info.shape), np.float32) for info in facts.maps),
        )


def this_device() -> torch.device:
    """The device that this process computes on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class CudaMemory:
    """Memory of the current GPU in bytes, of which this process may use ``share``."""

    def __init__(self, share: float) -> None:
        self._share = share

    def free(self) -> int:
        free, total = torch.cuda.mem_get_info()
        reserved = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return min(free + reserved, int(total * self._share))

    def peak_of(self, call: Callable[[], object]) -> int:
        """Highest use during ``call``, above what was in use before it."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch might fit."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def find_batch_rows(
    run: Callable[[int], object],
    memory: CudaMemory,
    *,
    start: int = DEFAULT_ROWS,
    most: int = compiled.MOST_ROWS,
) -> int:
    """Double the batch while it gets faster and the next doubling fits in memory.

    The best batch depends on the network, the card and its other users, so it is measured.

    Args:
        run: ``run(rows)`` computes a batch of that many images and returns when it is done.
        memory: of the device.
        start: the first batch; where it does not fit it is halved until it does.
        most: the largest batch.
    """
    rows, best = start, 0.0
    while True:
        try:
            run(rows)  # the first call of a shape pays for its kernels
            began = time.perf_counter()
            used = memory.peak_of(lambda at=rows: run(at))  # type: ignore[misc]
            rate = rows / (time.perf_counter() - began)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or rows == 1:
                raise
            torch.cuda.empty_cache()
            if best:
                return rows // 2
            rows //= 2
            most = rows
            continue
        if rate < _GAIN * best:
            return rows // 2
        if 2 * rows > most or 2 * used > _SHARE * memory.free():
            return rows
        rows, best = 2 * rows, rate


def in_batches(call: Callable[[int, int], T], total: int, rows: int) -> tuple[list[T], int]:
    """Call a function on batches of equal size, which are halved where memory runs out.

    They are equal because a small remainder takes a GPU nearly as long as a whole batch.

    Args:
        call: ``call(start, stop)`` computes these rows.
        total: rows in all.
        rows: of a batch, at most.

    Returns:
        The results in order, and the batch size that fitted, to start the next call with.

    Raises:
        MemoryError: not even one row fits (whatever the device raised).
    """
    results: list[T] = []
    start = 0
    while start < total:
        parts = -(-(total - start) // rows)
        stop = start - (start - total) // parts
        try:
            results.append(call(start, stop))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or rows == 1:
                raise
            rows = max(1, min(rows, stop - start) // 2)
            torch.cuda.empty_cache()
            continue
        start = stop
    return results, rows
