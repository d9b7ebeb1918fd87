"""The contract with one process of uvicorn."""

from __future__ import annotations

from tests.integration.api.contract import (  # noqa: F401
    TestDetections,
    TestErrors,
    TestIndex,
    TestLink,
    TestSearch,
    TestTracks,
)
