"""FAISS in one thread."""

from __future__ import annotations

from tests.helpers.indexes import one_faiss_thread

__all__ = ["one_faiss_thread"]
