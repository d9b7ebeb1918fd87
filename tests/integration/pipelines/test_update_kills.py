"""Updates that are killed anywhere: the run is whole, and the same command goes on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import WorkError
from pipelines.run import Run
from tests.helpers.indexes import tree
from tests.helpers.updates import check_whole, extracted, make_photos, near, photo, without_ids
from tests.integration.pipelines.execution.world import everything, same


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


class _Killed(BaseException):
    pass


def killed_at(monkeypatch: pytest.MonkeyPatch, where: str, after: int) -> None:
    """Let the update die after so many calls of a function that it uses."""
    within, _, name = where.rpartition(".")
    module = importlib.import_module(within or "pipelines.update.commit")
    original: Callable[..., Any] = getattr(module, name)
    calls = 0

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise _Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, dies)


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize(
    ("where", "after"),
    [
        *(("write_hashed", 0), ("write_plan", 0), ("write_atomic", 0), ("write_atomic", 1)),
        *(("write_atomic", 2), ("write_hdf5", 0), ("describe_run", 0), ("write_hashed", 1)),
        *(("remove_leftovers", 0), ("remove_folder", 1)),
        *(("pipelines.session.describe_run", 0), ("pipelines.execution.local.write_part", 0)),
    ],
)
def test_a_kill_anywhere_leaves_a_whole_run_and_is_continued(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    after: int,
    grown: bool,
) -> None:
    out = tmp_path / "run"
    before = everything(extracted(photos, out, hdf5=True).run)
    photo(photos / "night0" / "0085.jpg", 100)
    photo(photos / "night1" / "0050.jpg", 101)
    with monkeypatch.context() as patched:
        killed_at(patched, where, after)
        with pytest.raises((_Killed, WorkError)):
            extracted(photos, out, update=True, hdf5=True)
    run = Run.open(out)
    if not run.manifest.updates:
        assert same(everything(run), before)
        run.manifest.model_copy(
            update={
                "files": {
                    name: sha
                    for name, sha in run.manifest.files.items()
                    if name.startswith(("detections", "plan"))
                }
            }
        ).verify_files(out)
    if grown:
        photo(photos / "night1" / "2000.jpg", 102)
    outcome = extracted(photos, out, update=True, hdf5=True)
    assert near(without_ids(outcome.run), without_ids(extracted(photos, tmp_path / "new").run))
    check_whole(outcome.run)
    assert extracted(photos, out, hdf5=True).already_finished


def test_a_kill_after_the_manifest_leaves_nothing_for_good(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is finished then, and the same command only clears away what finished runs lack."""
    whole = extracted(photos, tmp_path / "whole").run
    with monkeypatch.context() as patched:
        killed_at(patched, "pipelines.session.remove_folder", 0)
        with pytest.raises(_Killed):
            extracted(photos, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    (run.path / "open").mkdir(exist_ok=True)
    (run.path / "open" / "mark").touch()
    (run.path / "checkpoint").mkdir()  # of Ray
    (run.path / ".events.jsonl.4711").touch()  # killed while it wrote its last events
    assert extracted(photos, run.path).already_finished
    assert tree(run.path) == tree(whole.path)
    assert same(everything(Run.open(run.path)), everything(whole))
