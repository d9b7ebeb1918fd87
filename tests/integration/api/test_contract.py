"""The contract with one process of uvicorn."""

from __future__ import annotations

from tests.helpers.api.contract_link import TestLink  # noqa: F401
from tests.helpers.api.contract_options import TestOptions, TestUnknownParameters  # noqa: F401
from tests.helpers.api.contract_search import TestDetections, TestSearch, TestTracks  # noqa: F401
from tests.helpers.api.contract_service import TestErrors, TestIndex  # noqa: F401
