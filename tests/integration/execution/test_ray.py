"""The executor on Ray, in the session that tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.execution.suite import ExecutorSuite

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_session")
class TestRay(ExecutorSuite):
    executor = "ray"
    other = "local"

    @pytest.fixture
    def failing(self, ray_faults: Path) -> Callable[[int], None]:
        def begin(times: int) -> None:
            for token in ray_faults.glob("forward@raise@*"):
                token.unlink()
            if times >= 0:
                (ray_faults / f"forward@raise@{times or 'always'}").touch()

        return begin
