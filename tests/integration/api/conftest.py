"""One world and one server for all tests of the service."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from api.client import Client
from tests.helpers.api.world import World, make_world, serving


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def base_url(world: World) -> Iterator[str]:
    """The server that the contract is tested with; a module may use another one."""
    with serving(world.index) as http:
        yield str(http.base_url)


@pytest.fixture(scope="module")
def http(base_url: str) -> Iterator[httpx.Client]:
    """The service as bytes and headers."""
    with httpx.Client(base_url=base_url, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[Client]:
    """The service as Python users see it."""
    with Client(base_url) as client:
        yield client
