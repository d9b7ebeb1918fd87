"""How many images go to the device at once: measured, and halved when memory runs out.

On a GPU the best batch depends on the network, the card and its other users, so it is measured. On
a CPU more than a few dozen images gain nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

DEFAULT_ROWS = 32
MOST_ROWS = 1024
_GAIN = 1.05  # a doubling that is not this much faster is not worth its memory
_SHARE = 0.8  # of free memory; the rest is for fragments of other batches

T = TypeVar("T")


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
    most: int = MOST_ROWS,
) -> int:
    """Double the batch while it gets faster and the next doubling fits in memory.

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
