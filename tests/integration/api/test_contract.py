"""The contract, held against one process of uvicorn."""

from __future__ import annotations

from tests.integration.api import contract


class TestSearch(contract.SearchContract):
    """Of the default server."""


class TestDetections(contract.DetectionContract):
    """Of the default server."""


class TestTracks(contract.TrackContract):
    """Of the default server."""


class TestLink(contract.LinkContract):
    """Of the default server."""


class TestIndex(contract.IndexContract):
    """Of the default server."""


class TestErrors(contract.ErrorContract):
    """Of the default server."""
