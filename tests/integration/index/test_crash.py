"""kill -9 at any point of any command: what is served stays right, and the next command works."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.build.update import delete_rows
from index.build.versions import promote
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import SEGMENTS, current_version, list_versions, read_manifest
from tests.helpers.fork_server import ForkServer, run_command
from tests.integration.index.conftest import FIRST, SECOND

LEFT_ALONE = {"CURRENT", ".lock", SEGMENTS}
COMMANDS = ("build", "add", "delete", "compact", "promote", "prune")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as started:
        yield started


def arguments(command: str, world: Path) -> list[str]:
    return {
        "build": [str(world / "first"), "IVF4,Flat"],
        "add": [str(world / "second")],
        "delete": ["row_id < 20"],
        "compact": [],
        "promote": ["v0001"],
        "prune": ["1"],
    }[command]


def rows_after(command: str) -> int:
    """Rows that are served once ``command`` is through; 100 before."""
    changed = {"build": 120, "add": 140, "delete": 80, "promote": 120}
    return changed.get(command, 100)


def check_after_kill(index: Path, command: str, world: Path) -> None:
    """Check what is served, give the command again, check what stands."""
    snapshot = Snapshot.open(index)
    through = check_served(snapshot, command)
    for version in list_versions(index):
        Snapshot.open(index, version).verify()
    if not (through and command == "add"):  # its ids would be refused now
        run_command(command, index, *arguments(command, world))
        assert check_served(Snapshot.open(index), command) or command in ("compact", "prune")
    delete_rows(index, Filter(ids=frozenset({"a50"})))
    named = {
        segment.name
        for version in list_versions(index)
        for segment in read_manifest(index, version).segments
    }
    assert {folder.name for folder in (index / SEGMENTS).iterdir()} == named
    assert {entry.name for entry in index.iterdir()} == LEFT_ALONE | set(list_versions(index))


def check_served(snapshot: Snapshot, command: str) -> bool:
    """The rows are those of before or those of after, none other, and a search is right."""
    assert snapshot.verify() in (100, rows_after(command))
    hits = snapshot.search(FIRST[60:61], 5, exact=True)
    ids = snapshot.columns(hits.rows[0])["detection_id"]
    stored = np.vstack([FIRST, SECOND])
    there = snapshot.columns(snapshot.matching())["detection_id"]
    numbers = np.array([int(name[1:]) + (120 if name[0] == "b" else 0) for name in there])
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    near = np.argsort(-(unit[numbers] @ unit[60]))[:5]
    assert ids == [there[place] for place in near]
    assert ids[0] == "a60"
    return snapshot.manifest.version != "v0002" or command in ("compact", "prune")


@pytest.mark.parametrize("command", ["add", "compact"])
def test_killed_before_each_change_to_files(
    tmp_path: Path, world: Path, server: ForkServer, command: str
) -> None:
    for change in range(200):
        index = tmp_path / f"index-{change}"
        shutil.copytree(world / "index", index)
        if server.run(command, index, *arguments(command, world), change=change) is not None:
            break
        assert current_version(index) == "v0002", "the switch is the last change of all"
        check_after_kill(index, command, world)
    else:
        raise AssertionError("it never got through")
    assert change >= 15, "these are the changes that a command makes"
    assert current_version(index) == "v0003"


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_random_moments(
    tmp_path: Path, world: Path, server: ForkServer, command: str, times: int
) -> None:
    seconds = []
    for number in range(2):
        shutil.copytree(world / "index", tmp_path / f"whole-{number}")
        took = server.run(command, tmp_path / f"whole-{number}", *arguments(command, world))
        assert took is not None
        seconds.append(took)
    for number in range(times):
        index = tmp_path / f"index-{number}"
        shutil.copytree(world / "index", index)
        after = random.uniform(0, min(seconds))  # noqa: S311
        server.run(command, index, *arguments(command, world), after=after)
        check_after_kill(index, command, world)


def test_first_build_killed_before_each_change_to_files(
    tmp_path: Path, world: Path, server: ForkServer
) -> None:
    """Where nothing was served, nothing half is, and the folder still takes a build."""
    for change in range(0, 200, 3):
        index = tmp_path / f"index-{change}"
        build = ("build", index, world / "first", "Flat")
        if server.run(*build, change=change) is not None:
            break
        assert all(
            Snapshot.open(index, version).verify() == 120 for version in list_versions(index)
        )
        assert server.run(*build) is not None
        assert Snapshot.open(index).verify() == 120
        assert {entry.name for entry in index.iterdir()} == LEFT_ALONE | set(list_versions(index))
    else:
        raise AssertionError("it never got through")


def test_promote_takes_away_what_a_killed_one_left(world: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    shutil.copytree(world / "index", index)
    (index / ".CURRENT.999999999").write_text("v00")
    promote(index, "v0001")
    assert {entry.name for entry in index.iterdir()} == LEFT_ALONE | {"v0001", "v0002"}
