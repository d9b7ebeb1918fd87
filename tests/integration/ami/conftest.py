"""One PostgreSQL for all tests of databases, and a fresh database in it for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.helpers.postgres import Server, programs, running

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    folder = programs()
    if folder is None:
        missing = "no PostgreSQL here: as root run 'make test', or 'apt-get install postgresql'"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with running(folder) as server:
        yield server


@pytest.fixture
def fresh(postgres: Server) -> str:
    """The name of an empty database."""
    name = f"ami{next(_NUMBERS)}"
    postgres.do(f"CREATE DATABASE {name}")
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ami.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url(request.getfixturevalue("fresh"))
