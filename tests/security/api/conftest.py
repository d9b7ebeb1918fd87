"""The world and the server of the API's other tests."""

from __future__ import annotations

from tests.integration.api.conftest import base_url, http, world

__all__ = ["base_url", "http", "world"]
