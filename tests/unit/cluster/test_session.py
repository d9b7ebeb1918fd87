"""The start of a Ray session: errors in one line, and the size of the object store."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from cluster.session import private_folder, session, store_bytes
from common.errors import ClusterError

GIB = 2**30


@pytest.fixture
def _no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests may hold a session
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("_no_session")
def test_a_start_that_takes_ray_too_long_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup. This could be\nanything")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(ClusterError, match=r"timed out during startup.*; a machine"), session():
        pass


@pytest.mark.usefixtures("_no_session")
def test_a_dead_address_is_refused_at_once() -> None:
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1"), session("127.0.0.1:1"):
        pass


@pytest.mark.parametrize(
    ("slots", "memory", "shm", "size"),
    [
        (4, 24 * GIB, 24 * GIB, 2 * GIB),  # by the work, not by the memory
        (4, 4 * GIB, 24 * GIB, int(1.2 * GIB)),  # a small machine: 30 %, as Ray
        (4, 24 * GIB, GIB, int(0.95 * GIB)),  # all of a small /dev/shm
        (4, 24 * GIB, 64 * 2**20, 2 * GIB),  # a container's: too small, so on disk
        (4, 24 * GIB, None, 2 * GIB),
        (1, 2**20, 2**20, 80 * 10**6),  # Ray starts with no less
    ],
)
def test_the_object_store_has_the_size_of_the_work(
    slots: int, memory: int, shm: int | None, size: int
) -> None:
    assert store_bytes(slots, memory=memory, shm=shm) == size


@pytest.mark.parametrize("length", [1, 60])
def test_the_folder_of_ray_is_private_and_has_a_short_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    base = tmp_path / ("r" * length)
    base.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    folders = [private_folder() for _ in range(2)]
    try:
        assert folders[0] != folders[1]
        for folder in folders:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert len(str(folder)) < 40 or folder.parent == base
    finally:
        for folder in folders:
            folder.rmdir()


@pytest.mark.usefixtures("_no_session")
def test_a_folder_that_cannot_be_made_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    with pytest.raises(ClusterError, match="RAY_TMPDIR"), session():
        pass
