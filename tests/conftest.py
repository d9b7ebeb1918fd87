"""Tiers, enforced.

``tests/unit`` may not start Ray, build engines or sleep. ``tests/integration`` may. ``tests/data``
needs real images in the folder ``ONEPASS_DATA``: in CI a missing folder fails, elsewhere those
tests are deselected and one line says so.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.helpers.s3 import Store, s3, s3_server  # noqa: F401
from tests.helpers.tiers import Stopwatch, folder_of

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def data_folder() -> Path | None:
    given = os.environ.get("ONEPASS_DATA")
    return Path(given).resolve() if given and Path(given).is_dir() else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Stopwatch(), "tiers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen_long = "long" in (config.getoption("-m") or "")
    dropped = []
    for item in items:
        if folder_of(item.path, config.rootpath) == "data":
            item.add_marker("data")
            if data_folder() is None and not os.environ.get("CI"):
                dropped.append(item)
        if item.get_closest_marker("long") and not chosen_long:
            dropped.append(item)
        if item.get_closest_marker("gpu") and not _has_gpu():
            dropped.append(item)
    # A process that has joined Ray works on it, so that those that are not about Ray come before.
    items.sort(key=lambda item: "ray" in item.keywords)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_report_header() -> str | None:
    if data_folder() is None and not os.environ.get("CI"):
        return "real-image tests are deselected: set ONEPASS_DATA to the data folder to run them"
    return None


@pytest.fixture(scope="session")
def data() -> Path:
    folder = data_folder()
    assert folder is not None, "ONEPASS_DATA must name the data folder in CI"
    return folder


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for one module's models and engines."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(path))
        yield path


# What unit tests may not call, beside ``time.sleep``. The last two are where the package calls ``openvino.convert_model``
# and ``torch._inductor.aoti_compile_and_package``, whose own modules take seconds to import.
NOT_IN_UNIT = {
    "ray": "init",
    "pipelines.engines.openvino": "_convert",
    "pipelines.engines.compiled": "_compile",
}


@pytest.fixture(autouse=True)
def _unit_tests_stay_unit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder_of(request.path, request.config.rootpath) != "unit":
        return

    def refuse(*_: Any, **__: Any) -> None:
        # Not an error, which the package would take for a network that an engine refuses.
        pytest.fail(
            "unit tests neither start Ray nor build engines nor sleep; move this to integration"
        )

    for module, name in NOT_IN_UNIT.items():
        if module in sys.modules:  # what is not imported is not called, and ray takes seconds
            monkeypatch.setattr(sys.modules[module], name, refuse)
    sleep = time.sleep

    def refuse_to_sleep(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            refuse()
        sleep(seconds)  # a thread that lives on, as the one that writes the log of a service

    monkeypatch.setattr(time, "sleep", refuse_to_sleep)


@pytest.fixture(scope="session")
def ray_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests leave faults for the processes of ``ray_session``; see ``tests/helpers/fault_points``."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def ray_session(ray_faults: Path, s3_server: Store) -> Iterator[None]:  # noqa: F811
    """One local Ray for all tests that extract on it; ended with the session.

    Its processes know the object store and the folder of faults of the tests.
    """
    import logging

    import ray

    from cluster.session import print_status
    from cluster.token import own_token

    print_status()
    faulty = {
        "FAULTS": str(ray_faults),
        "PYTHONPATH": str(Path(__file__).parent / "helpers" / "fault_points"),
    }
    with own_token(), patch.dict(os.environ, faulty | s3_server.environment):
        ray.init(
            "local",
            num_cpus=2,  # two actors; also the fewest slots that extraction accepts
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    yield
    ray.shutdown()
