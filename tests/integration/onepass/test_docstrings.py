"""The examples in docstrings, run as they stand, in a folder with photos, a run and an index."""

from __future__ import annotations

import doctest
import os
import shutil
from pathlib import Path

import pytest

import onepass
from onepass import linking, migrating, runs, search, searching
from onepass.cli import flags
from pipelines import run
from tests.helpers.pictures import drawn
from tracks.association import options

MODULES = (flags, linking, migrating, options, run, runs, search, searching)
FRESH = {"onepass.runs.extract": "runs", "onepass.indexing.build_index": "photos.index"}
"""Examples that make what the others find made."""


def _examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for module in MODULES for test in finder.find(module) if test.examples]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    for number in range(12):
        file = folder / "photos" / f"night{number // 6}" / f"{number % 6}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn(number, width=64, height=48).save(file)
    run = onepass.extract(folder / "photos", "tiny", folder / "runs" / "first", progress=False)
    onepass.build_index(run, folder / "photos.index", progress=False)
    onepass.link(run, progress=False)
    return folder


@pytest.mark.parametrize("example", _examples(), ids=lambda example: example.name)
def test_example(
    example: doctest.DocTest, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    if example.name in FRESH:
        shutil.rmtree(tmp_path / FRESH[example.name])
    monkeypatch.chdir(tmp_path)
    example.globs["onepass"] = onepass
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    output: list[str] = []
    runner.run(example, out=output.append)
    assert not runner.failures, os.linesep.join(output)
