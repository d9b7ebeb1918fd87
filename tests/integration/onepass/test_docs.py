"""The README and the pages of ``docs/``: every command and every block of Python, as it stands.

All pages run in one folder with photos, boxes, videos and a database, so that what one has
extracted is there for the next: the same command continues, or finds its run finished.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import httpx
import pytest
import ray.scripts.scripts
import torch
import typer

import onepass
import onepass.cli.main
from index.storage.columns import ROWS_SCHEMA
from index.storage.layout import SnapshotManifest
from migration.report import MigrationReport
from pipelines.detections import PLAN_SCHEMA, RESULT_COLUMNS
from pipelines.heads.apply import SCHEMA as APPLIED_SCHEMA
from pipelines.heads.apply import AppliedManifest
from pipelines.heads.report import ProbeRecord
from pipelines.outputs.clips.folder import ClipsManifest, LeftOut
from pipelines.request import Request
from pipelines.run import RunManifest
from tests.helpers.ami import fill, stored
from tests.helpers.api.world import wait_until_ready
from tests.helpers.commands import here
from tests.helpers.detectors import calibrated, of_classes
from tests.helpers.pages import PAGES, ROOT, Block, blocks, check_options, inline_commands
from tests.helpers.pictures import drawn, photo_folder
from tests.helpers.videos import write_video
from tracks.association.options import LinkOptions
from tracks.pictures.review import COLUMNS as REVIEW_COLUMNS
from tracks.store import SCHEMA as TRACKS_SCHEMA
from tracks.store import TracksManifest

ONEPASS, RAY = typer.main.get_command(onepass.cli.main.app), ray.scripts.scripts.cli
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
RUN_PAGES = [page for page in PAGES if blocks(page, "sh", "python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The reader's folder."""
    path = tmp_path_factory.mktemp("reader")
    photo_folder(path / "photos", 24)
    write_nights(path)
    for name in ("train/still/a.mp4", "val/still/b.mp4"):
        write_video(path / "clips" / name, 70)
    for number in range(24):
        split, category = ("train", "val")[number % 3 == 0], ("grey", "colourful")[number % 2]
        file = path / "labelled" / split / category / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = drawn(number)
        (picture.convert("L") if category == "grey" else picture).save(file)
    fill(f"sqlite:///{path}/ami.db", path / "traps")
    torch.save(calibrated(of_classes(2)).state_dict(), path / "detector.pth")
    drawn(57).save(path / "frame57.jpg")
    drawn(58).save(path / "query.jpg")
    with contextlib.chdir(path):
        yield path


def write_nights(folder: Path) -> None:
    """Two nights of six frames, each with two drawn things that walk; their boxes, and who is who."""
    lines = ["image,sequence,frame,x1,y1,x2,y2,detector_score"]
    (folder / "truth").mkdir()
    for night, name in enumerate(("monday", "tuesday")):
        truth = []
        (folder / name).mkdir()
        for frame in range(6):
            picture = drawn(50 + night, width=320, height=240).convert("L").convert("RGB")
            for thing in range(2):
                x, y = 20 + 12 * frame + 150 * thing, 40 + 90 * thing
                picture.paste(drawn(10 * night + thing, width=60, height=50), (x, y))
                lines.append(f"{name}/{frame}.jpg,{name},{frame},{x},{y},{x + 60},{y + 50},0.9")
                truth.append(f"{frame + 1},{thing + 1},{x},{y},60,50,1,-1,-1")
            picture.save(folder / name / f"{frame}.jpg", quality=95)
        (folder / "truth" / f"{name}.txt").write_text("\n".join(truth))
    (folder / "nights.csv").write_text("\n".join(lines))


class Reader:
    """Types what a page says; one server at a time, on a free port in place of 8000."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "page"}
        self.server = ExitStack()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = str(probe.getsockname()[1])

    def read(self, block: Block) -> None:
        text = block.text.replace("8000", self.port)
        if block.language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", onepass.OnepassWarning)
                exec(compile(text, "a page", "exec"), self.names)  # noqa: S102
        else:
            for line in block._replace(text=text).lines:
                self.type(line)

    def type(self, line: str) -> None:
        program, *words = shlex.split(line, comments=True)
        if is_only_checked(program, words):
            return
        if program != "onepass":
            done = subprocess.run(["bash", "-c", line], env=ENVIRONMENT, capture_output=True)
            assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
        elif words[0] == "serve":
            self.serve(words)
        else:
            ran = here(*words)
            assert ran.returncode == 0, f"{line}: {ran.stderr}"

    def serve(self, words: list[str]) -> None:
        self.server.close()
        port = [] if "--port" in words else ["--port", self.port]
        command = [sys.executable, "-m", "onepass", *words, *port]
        child = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        self.server.callback(child.wait, 30)
        self.server.callback(child.terminate)
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}") as client:
            wait_until_ready(client)


def is_only_checked(program: str, words: list[str]) -> bool:
    """What installs, builds or measures is not run: what it names must exist."""
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets), words
    elif program == "pip":
        named = re.findall(r"(?:onepass|\.)\[([^\]]*)\]", " ".join(words))
        assert set(",".join(named).split(",")) - {""} <= set(EXTRAS), words
    elif words[:2] and words[0] == "-m" and words[1].startswith("benchmarks."):
        assert importlib.util.find_spec(words[1]), words[1]
    else:
        return False
    return True


def check_readme() -> None:
    run = onepass.open_run("runs/first")
    assert run.verify() == 24
    hits = onepass.open_index("photos.index").search_images("photos/night0/0000.jpg", k=3)
    assert hits.to_pandas()["image"][0] == "night0/0000.jpg"
    assert hits.scores[0] > 0.99  # the very image


def check_tracks() -> None:
    tracks = onepass.open_tracks("runs/nights")
    assert (len(tracks), tracks.summary.detections, tracks.summary.sequences) == (4, 24, 2)
    assert LinkOptions(**json.loads(Path("nights.json").read_text())) != LinkOptions()
    assert {file.name for file in Path("mot").iterdir()} >= {"monday.txt", "tuesday.txt"}


def check_videos() -> None:
    assert onepass.open_run("runs/clips").verify() == 128
    with h5py.File("features/train_features_multiscale.h5") as file:
        assert file["features"].shape == (1, 73, 1280)


def check_heads() -> None:
    measures = json.loads(Path("ants.json").read_text())["measures"]
    assert measures["validation"]["accuracy"] >= 0.9
    labels = onepass.open_run("runs/by-head").to_pandas(["label"])["label"]
    assert set(labels) == {"colourful"}


def check_database() -> None:
    columns = ("cnn_features", "sequence_id")
    rows = stored(f"sqlite:///{Path.cwd()}/ami.db", *columns)
    assert len(rows) == 16
    assert all(row[name] for row in rows.values() for name in columns)


CHECKS: dict[str, Callable[[], None]] = {
    "README.md": check_readme,
    "docs/guides/tracks.md": check_tracks,
    "docs/guides/videos.md": check_videos,
    "docs/guides/heads.md": check_heads,
    "docs/guides/ami_database.md": check_database,
}
"""What some pages have made, beside that nothing failed."""


@pytest.mark.parametrize("page", RUN_PAGES)
def test_a_page_runs_as_it_stands(page: str, folder: Path) -> None:
    reader = Reader()
    with reader.server:
        for block in blocks(page, "sh", "python"):
            if block.needs is None:
                reader.read(block)
    CHECKS.get(page, lambda: None)()


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_not_run_have_only_options_that_exist(page: str) -> None:
    unused = [block for block in blocks(page, "sh", "python") if block.needs is not None]
    lines = [line for block in unused if block.language == "sh" for line in block.lines]
    for line in [*lines, *inline_commands(page)]:
        program, *words = (word for word in shlex.split(line, comments=True) if "=" not in word)
        if program == "ray":
            check_options(RAY, words)
        elif program == "onepass":
            after = check_options(ONEPASS, words)
            check_options(ONEPASS, after) if after else None
    for block in unused:
        if block.language == "python":
            compile(block.text, page, "exec")


def test_the_page_on_python_has_every_name() -> None:
    text = (ROOT / "docs/python.md").read_text()
    listed = set(re.findall(r"^::: onepass\.(\w+)$", text, re.MULTILINE))
    tables = set(re.findall(r"^<!-- fields of [\w.]+:(\w+) -->$", text, re.MULTILINE))
    assert listed | tables >= set(onepass.__all__) - {"__version__"}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("runs", (*PLAN_SCHEMA.names, *RESULT_COLUMNS, *RunManifest.model_fields)),
        ("runs", Request.model_fields),
        ("indexes", (*ROWS_SCHEMA.names, *SnapshotManifest.model_fields)),
        ("tracks", (*TRACKS_SCHEMA.names, *REVIEW_COLUMNS, *TracksManifest.model_fields)),
        ("others", (*ClipsManifest.model_fields, *LeftOut.model_fields)),
        ("others", (*APPLIED_SCHEMA.names, *AppliedManifest.model_fields)),
        ("others", (*ProbeRecord.model_fields, *MigrationReport.model_fields)),
    ],
)
def test_pages_on_files_name_every_column_and_field(page: str, names: Iterable[str]) -> None:
    text = (ROOT / "docs/formats" / f"{page}.md").read_text()
    assert not [name for name in names if f"`{name}`" not in text]


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "SECURITY.md"])
def test_modules_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", text)
    names = re.findall(r"`python -m ([\w.]+)", text)
    assert not [name for name in named if not (ROOT / name).is_file()]
    assert not [name for name in names if importlib.util.find_spec(name) is None]


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text()):
        assert target.startswith("http") or (ROOT / target).exists(), target
