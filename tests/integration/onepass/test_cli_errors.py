"""Requests that cannot be carried out: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer

from common.json_models import write_atomic
from index.build.version import build_index
from onepass.cli.main import app
from pipelines.model_info import ModelRequest
from pipelines.models.registry import examine
from pipelines.request import fingerprint_inputs
from pipelines.sources.read import read_source
from tests.helpers.commands import ROOT, here, onepass
from tests.helpers.pictures import photo_folder
from tests.helpers.refusals import only_error
from tests.helpers.runs import make_config, request_of, write_run

TINY = ModelRequest(spec="tiny")


def all_commands() -> Iterator[tuple[tuple[str, ...], bool]]:
    """The words of every command, and whether its help has an example."""
    root = typer.main.get_command(app)
    yield (), False
    for name, command in getattr(root, "commands").items():  # noqa: B009 - of click's groups
        subcommands = getattr(command, "commands", {})
        yield (name,), name != "demo" and not subcommands
        yield from (((name, subcommand), True) for subcommand in subcommands)


def refused(*arguments: object, run: Callable[..., subprocess.CompletedProcess[str]] = here) -> str:
    done = run(*arguments)
    return only_error(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), 2, width=64, height=48)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An index of sixteen dimensions, and a run of eight."""
    folder = tmp_path_factory.mktemp("indexed")
    random = np.random.default_rng(0)
    for dim in (8, 16):
        plan = {"image": [f"{n}.jpg" for n in range(12)], "detection_id": [*"abcdefghijkl"]}
        write_run(folder / f"run{dim}", plan, random.normal(size=(12, dim)))
    build_index([folder / "run16"], folder / "index")
    return SimpleNamespace(index=folder / "index", run8=folder / "run8", folder=folder)


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(("command", "example"), list(all_commands()))
def test_help_of_every_command(command: tuple[str, ...], example: bool) -> None:
    done = here(*command, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "Usage: " in done.stdout
    assert (f"Example: onepass {' '.join(command)}" in " ".join(done.stdout.split())) is example


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, onepass.cli.main\n"
        "sys.argv = ['onepass', '--help']\n"
        "try:\n    onepass.cli.main.main()\n"
        "except SystemExit as ended:\n    assert ended.code == 0\n"
        "heavy = {'torch', 'ray', 'faiss', 'timm', 'pyarrow', 'numpy', 'fastapi'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("gone", ["gone"]),
        ("empty", ["empty", "no images"]),
        ("rows.csv", ["rows.csv", "'image'", "path, x1"]),
    ],
)
def test_sources_that_cannot_be_read(tmp_path: Path, source: str, names: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("path,x1\na.jpg,1\n")
    before = tree(tmp_path)
    line = refused("extract", tmp_path / source, "--model", "tiny", "--out", tmp_path / "run")
    assert all(name in line for name in names), line
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        ("--mean", "0.5,0.5", "--mean 0.5,0.5"),
        ("--mean", "a,b,c", "--mean a,b,c"),
        ("--std", "0.5,0.5,0", "--std 0.5,0.5,0"),
        ("--features", "pooled,maps", "pooled,maps"),
        ("--features", "pyramid", "--feature-indices"),
        ("--feature-indices", "2", "--features"),
        ("--gate-label", "moth", "--gate"),
        ("--embed-with", "gate", "--gate"),
        ("--gate", "tiny", "--gate-label"),
    ],
)
def test_bad_values_of_options(
    photos: Path, tmp_path: Path, option: str, value: str, names: str
) -> None:
    out = tmp_path / "run"
    assert names in refused("extract", photos, "--model", "tiny", "--out", out, option, value)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        (["--model", "resnet50"], "resnet50"),
        (["--model", "timm:no_such_net"], "no_such_net"),
        (["--model", "tiny", "--gate", "tiny", "--gate-label", "moth"], "moth"),
        (["--model", "lite0", "--features", "pyramid", "--feature-indices", "9"], "levels 0"),
        (["--model", "tiny", "--precision", "fp16"], "GPU"),
        (["--model", "tiny", "--labels", "LABELS"], "10 classes"),
        (["--model", "tiny", "--checkpoint", "OTHER"], "--checkpoint"),
        (["--model", "timm:resnet18", "--checkpoint", "OTHER"], "resnet18"),
        (["--model", "timm:resnet18", "--checkpoint", "GONE"], "gone"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
@pytest.mark.ray
def test_models_that_do_not_fit(
    ray_session: None,
    photos: Path,
    tmp_path: Path,
    extra: list[str],
    names: str,
) -> None:
    import torch

    files = {name: tmp_path / name.lower() for name in ("LABELS", "OTHER", "GONE")}
    files["LABELS"].write_text("ant\nbee\nmoth\n")
    torch.save({"conv.weight": torch.zeros(2, 2)}, files["OTHER"])
    out = tmp_path / "run"
    options = [files.get(part, part) for part in extra]
    assert names in refused("extract", photos, "--out", out, *options)
    assert not out.exists()


@pytest.mark.ray
def test_unknown_model_in_a_process_of_its_own(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = refused("extract", photos, "--model", "resnet50", "--out", out, run=onepass)
    assert "resnet50" in line
    assert tree(tmp_path) == []


def test_out_of_another_command(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    plan = read_source(str(photos))
    config = make_config(source=photos, engine="auto")
    request = request_of(config, examine(TINY), inputs=fingerprint_inputs(plan.table, config))
    write_atomic(out / "request.json", request.model_dump_json().encode())
    before = [(file, file.stat().st_mtime_ns) for file in tree(tmp_path)]
    line = refused("extract", photos, "--model", "lite0", "--out", out, "--precision", "fp32")
    assert "model: then" in line
    assert [(file, file.stat().st_mtime_ns) for file in tree(tmp_path)] == before


def test_out_that_holds_something_else(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    line = refused("extract", photos, "--model", "tiny", "--out", tmp_path)
    assert str(tmp_path) in line
    assert tree(tmp_path) == [tmp_path / "diary.txt"]


def test_index_of_another_dimension(indexed: SimpleNamespace) -> None:
    before = tree(indexed.index)
    line = refused("index", "build", indexed.run8, "--out", indexed.index)
    assert {"16", "8"} <= set(re.findall(r"(?<![\w/-])\d+(?![\w/-])", line))
    assert tree(indexed.index) == before


def test_index_of_an_unfinished_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    line = refused("index", "build", tmp_path / "run", "--out", tmp_path / "index")
    assert "manifest.json" in line
    assert not (tmp_path / "index").exists()


def test_query_takes_exactly_one_of_its_inputs(indexed: SimpleNamespace, tmp_path: Path) -> None:
    for query in ((), ("--id", "a", "--image", tmp_path / "b.jpg")):
        assert "--id, --image, --vector" in refused("query", indexed.index, *query)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--negative", "a"), "--negative needs --positive"),
        (("--id", "a", "--negative", "b"), "--negative needs --positive"),
        (("--id", "a", "--descending"), "--descending"),
        (("--order-by", "score", "--exact"), "--exact"),
        (("--order-by", "score", "--group-by", "label"), "--group-by"),
        (("--facets", "label", "--offset", "3"), "--offset"),
        (("--facets", "label", "--score-threshold", "0"), "--score-threshold"),
        (("--order-by", "colour"), "--order-by colour"),
        (("--facets", "colour"), "colour"),
        (("--order-by", "score", "--facets", "label"), "exactly one of"),
    ],
)
def test_query_refuses_what_it_would_ignore(
    indexed: SimpleNamespace, options: tuple[str, ...], named: str
) -> None:
    assert named in refused("query", indexed.index, *options)


def test_query_of_an_unknown_id(indexed: SimpleNamespace) -> None:
    assert "nobody" in refused("query", indexed.index, "--id", "nobody")


def test_query_with_a_vector_of_another_dimension(indexed: SimpleNamespace, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones(8, np.float32))
    line = refused("query", indexed.index, "--vector", tmp_path / "v.npy")
    assert {"16", "8"} <= set(re.findall(r"(?<![\w/-])\d+(?![\w/-])", line))


def test_options_of_ray_need_it(indexed: SimpleNamespace) -> None:
    assert "--replicas 2 needs --ray" in refused("serve", indexed.index, "--replicas", 2)
    assert "--address h:1 needs --ray" in refused("serve", indexed.index, "--address", "h:1")


def test_serving_from_ray_starts_nothing_that_cannot_end_well(
    indexed: SimpleNamespace, tmp_path: Path
) -> None:
    line = refused("serve", tmp_path / "gone", "--ray", run=onepass)
    assert "gone" in line
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        line = refused("serve", indexed.index, "--ray", "--port", port, run=onepass)
    assert f"127.0.0.1:{port}" in line
    line = refused("serve", indexed.index, "--ray", "--address", f"127.0.0.1:{port}", run=onepass)
    assert f"127.0.0.1:{port}" in line
