"""NumPy's matrix products on one thread.

Those of linking are small. Where cores are shared, several threads spend ten times as long waiting
for each other as the product takes, and a service has other threads that want the cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """While the block runs; other libraries, FAISS above all, keep the threads they have.

    Where blocks of several threads overlap, one thread may be what is left of it.
    """
    with _numpy().limit(limits=1):
        yield


@cache
def _numpy() -> ThreadpoolController:
    everything = ThreadpoolController()
    files = [one["filepath"] for one in everything.info() if one["user_api"] == "blas"]
    return everything.select(filepath=[file for file in files if "numpy" in file])
