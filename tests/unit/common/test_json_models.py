"""Unfinished files of killed processes."""

from __future__ import annotations

from pathlib import Path

from pipelines.execution.checkpoints import reconcile
from pipelines.outputs.clips.folder import ClipsRequest, finished_clips
from pipelines.request import earlier_request
from tests.helpers.runs import make_config


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


def test_an_unfinished_request_does_not_block_the_same_command(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".request.json.17").write_text('{"command"')
    assert earlier_request(tmp_path, make_config(), {}) is None
    clips = ClipsRequest(run="r", fingerprint="f", scales=(1.0,), limit=None)
    assert finished_clips(tmp_path, clips) is None


def test_only_unfinished_files_are_removed(tmp_path: Path) -> None:
    for folder in ("detections", "checkpoint", "plan"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".part-00000.parquet.4711").write_bytes(b"PAR1")
    for name in (".lock", ".features.h5.4711", "events.jsonl"):
        (tmp_path / name).touch()
    reconcile(tmp_path)
    # An unfinished plan is written again, whole.
    kept = [".lock", "checkpoint", "detections", "events.jsonl", "plan"]
    assert names(tmp_path) == [*kept, "plan/.part-00000.parquet.4711"]
