"""One job: what it would come to, what it came to, and the picture of where its time went."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cluster.executors import local_cores
from common.errors import RunError
from onepass.cli.main import main
from pipelines.config import Progress
from pipelines.dry_run import dry_run
from pipelines.extract import extract
from pipelines.progress.event_log import read_events
from tests.helpers.pictures import photo_folder
from tests.helpers.refusals import only_error
from tests.helpers.runs import make_config

PHOTOS, BROKEN = 90, 3


def tree(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(file), file.stat().st_mtime_ns) for file in folder.rglob("*"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A dry run, a run that fails when it counts its rows, and the same, continued."""
    source = photo_folder(tmp_path_factory.mktemp("photos"), PHOTOS - BROKEN)
    for number in range(BROKEN):
        (source / f"broken{number}.jpg").write_bytes(b"no picture")
    config = make_config(source=source, hdf5=True)
    folder = tmp_path_factory.mktemp("runs")
    out, seen = folder / "new" / "run", list[Progress]()
    before = tree(folder)
    coming = dry_run(config, out, report=seen.append)
    after = tree(folder)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("pipelines.session.describe_run", refuse)
        with pytest.raises(OSError, match="No space left"):
            extract(config, out)
    first = read_events(out)
    outcome = extract(config, out)
    return SimpleNamespace(
        config=config, out=out, coming=coming, before=before, after=after, seen=seen,
        first=first, outcome=outcome, events=read_events(out),
    )  # fmt: skip


def test_a_dry_run_leaves_nothing_and_foresees_the_files(job: SimpleNamespace) -> None:
    assert job.before == job.after == []
    coming, run = job.coming, job.outcome.run
    assert (coming.rows, coming.resumed_rows) == (PHOTOS, 0)
    assert coming.files == len(run.files())
    assert coming.sample_rows == PHOTOS  # of a job so small, all
    stored = sum(file.stat().st_size for file in run.files())
    assert coming.file_bytes == pytest.approx(stored, rel=0.05)
    assert coming.actors == run.manifest.session.actors == local_cores()
    assert [node["cpus"] for node in coming.nodes] == [local_cores()]
    assert coming.rates == {"decode + forward + write": coming.rate}
    work = coming.rows / coming.rate
    assert coming.seconds == pytest.approx(coming.start_seconds + work + coming.finish_seconds)
    assert 0 < coming.seconds < coming.sample_seconds + 1
    measured = [progress for progress in job.seen if progress.stage == "measuring"]
    assert measured[-1] == Progress("measuring", PHOTOS, PHOTOS, BROKEN)


def test_the_events_add_up_to_the_rows(job: SimpleNamespace) -> None:
    blocks = [line for line in job.first if line["event"] == "block"]
    for stage in ("decode", "forward", "write"):
        rows = {line["first_row"]: line["rows"] for line in blocks if line["stage"] == stage}
        assert sum(rows.values()) == PHOTOS
    assert sum(sum(line.get("errors", {}).values()) for line in blocks) == BROKEN
    (end,) = [line for line in job.first if line["event"] == "end"]
    assert (end["outcome"], end["errors"]) == ("OSError", {"not an image": BROKEN})
    assert [(stage["name"], stage["rows"]) for stage in end["stages"]] == [
        *(("load", 0), ("decode", PHOTOS), ("forward", PHOTOS), ("write", PHOTOS))
    ]
    assert "No space left" in end["error"]
    phases = [line["name"] for line in job.first if line["event"] == "phase"]
    assert phases == ["extracting", "hdf5", "checking"]


def test_a_continued_run_has_two_sessions(job: SimpleNamespace) -> None:
    assert job.events[: len(job.first)] == job.first
    later = job.events[len(job.first) :]
    assert {line["session"] for line in later} == {2}
    assert (later[0]["before"], later[0]["planned"]) == (PHOTOS, PHOTOS)
    assert later[-1]["outcome"] == "finished"
    assert job.outcome.resumed_rows == PHOTOS
    assert "events.jsonl" not in job.outcome.run.manifest.files
    assert dry_run(job.config, job.out) is None


def test_a_dry_run_refuses_a_run_of_another_command(job: SimpleNamespace) -> None:
    before = tree(job.out)
    with pytest.raises(RunError, match="is a run of another command"):
        dry_run(job.config.model_copy(update={"logits": True}), job.out)
    assert tree(job.out) == before


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["onepass", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        main()
    assert isinstance(exited.value.code, int)
    return exited.value.code


def test_the_profile_is_words_numbers_and_a_picture(
    job: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = tmp_path / "profile.png"
    assert run_command(monkeypatch, "inspect", job.out, picture, "--profile") == 0
    assert "session 1: OSError, " in capsys.readouterr().out
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
    for wanted in ("#e39a2d", "#1f62c4", "#4c9f70"):  # decode, forward and write were drawn
        assert tuple(bytes.fromhex(wanted[1:])) in colours
    assert run_command(monkeypatch, "inspect", job.out, "--profile", "--json") == 0
    profile = json.loads(capsys.readouterr().out)
    assert profile["picture"] is None
    first, second = profile["sessions"]
    assert (first["outcome"], first["rows"]) == ("OSError", PHOTOS)
    assert first["errors"] == {"not an image": BROKEN}
    assert (second["outcome"], second["rows"], second["executor"]) == ("finished", 0, "local")


def test_profiles_that_cannot_be_drawn(
    job: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*arguments: object) -> str:
        code = run_command(monkeypatch, *arguments)
        captured = capsys.readouterr()
        return only_error(code, captured.out, captured.err)

    assert "events.jsonl" in refused("inspect", tmp_path, "--profile")
    assert "--profile" in refused("inspect", job.out, tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "matplotlib" in refused("inspect", job.out, tmp_path / "a.png", "--profile")
    assert not (tmp_path / "a.png").exists()
