"""NumPy's matrix products on one thread.

Those of linking are small. Where cores are shared, several threads spend ten times as long waiting
for each other as the product takes, and a service has other threads that need the cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit NumPy to one thread in this block; other libraries, such as FAISS, keep theirs.

    The limit is of the process: where blocks of several threads overlap, it may outlast them.
    """
    with _numpy_threads().limit(limits=1):
        yield


@cache
def _numpy_threads() -> ThreadpoolController:
    pools = ThreadpoolController()
    files = [pool["filepath"] for pool in pools.info() if pool["user_api"] == "blas"]
    return pools.select(filepath=[file for file in files if "numpy" in file])
