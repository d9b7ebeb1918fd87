"""``onepass index …``: what each command prints, as lines and as JSON, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.build.update import delete_rows
from index.build.version import build_index
from index.search.filters import Filter
from index.search.snapshot import current_version
from onepass.cli.main import main
from tests.helpers.indexes import embeddings, make_run
from tests.helpers.refusals import only_error

Said = tuple[int | str | None, str, str]
Onepass = Callable[..., Said]


@pytest.fixture
def onepass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Onepass:
    """Run a command in this process; its exit code, what it printed, and its errors."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr("sys.argv", ["onepass", *map(str, arguments)])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code
        out, err = capsys.readouterr()
        return code or 0, out, err

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_run(folder / "a", embeddings(50), prefix="a")
    make_run(folder / "b", embeddings(20, seed=1), prefix="b")
    build_index([folder / "a"], folder / "index")
    delete_rows(folder / "index", Filter("row_id < 5"))
    return folder


@pytest.fixture
def index(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world / "index", tmp_path / "index")
    return tmp_path / "index"


def told(said: Said) -> Any:
    code, out, err = said
    assert code == 0, err
    return json.loads(out)


def lines(said: Said) -> list[str]:
    code, out, err = said
    assert code == 0, err
    return out.splitlines() + err.splitlines()


def test_build(world: Path, tmp_path: Path, onepass: Onepass) -> None:
    given = ("index", "build", world / "a", world / "b", "--memory", "1.5GB", "--shards", 2)
    made = told(onepass(*given, "--out", tmp_path / "one", "--metric", "l2", "--json"))
    assert (made["rows"], made["version"], made["verified"]) == (70, "v0001", False)
    assert made["options"] == {"metric": "l2", "factory": "auto", "recall": 0.95, "shards": 2}
    said = lines(onepass(*given, "--out", tmp_path / "one", "--metric", "l2", "--factory", "HNSW8"))
    assert any(line.endswith("v0002: 70 vectors of 32, l2") for line in said)
    assert any("onepass query" in line for line in said)


def test_add_and_compact(world: Path, index: Path, onepass: Onepass) -> None:
    made = told(onepass("index", "add", index, world / "b", "--json"))
    assert (made["rows"], made["deleted"], made["version"]) == (65, 5, "v0003")
    folded = told(onepass("index", "compact", index, "--memory", "100MB", "--json"))
    assert (folded["rows"], folded["deleted"], len(folded["segments"])) == (65, 0, 1)
    assert any("65 vectors of 32" in line for line in lines(onepass("index", "compact", index)))


def test_delete(index: Path, tmp_path: Path, onepass: Onepass) -> None:
    where = ("index", "delete", index, "--where")
    assert told(onepass(*where, "row_id < 10", "--json"))["rows"] == 40
    assert lines(onepass(*where, "row_id < 12"))[0] == "2 rows deleted"
    assert lines(onepass(*where, "row_id < 12"))[0] == "no rows match, so nothing was published"
    ids = tmp_path / "ids.txt"
    ids.write_text("a20\n\n a21 \nnobody\n")
    assert told(onepass("index", "delete", index, "--ids", ids, "--json"))["rows"] == 36
    assert told(onepass(*where, "row_id < 25", "--ids", ids, "--json"))["rows"] == 36


def test_list_promote_rollback_prune(index: Path, onepass: Onepass) -> None:
    first, second = told(onepass("index", "list", index, "--json"))
    assert (first["version"], first["current"], first["rows"]) == ("v0001", False, 50)
    assert (second["version"], second["current"], second["rows"]) == ("v0002", True, 45)
    assert first["bytes"] > 50 * 32 * 4
    said = lines(onepass("index", "list", index))
    assert [line[:7] for line in said] == ["  v0001", "* v0002"]
    assert told(onepass("index", "rollback", index, "--json"))["version"] == "v0001"
    assert told(onepass("index", "promote", index, "v0002", "--json"))["version"] == "v0002"
    assert any("v0001: 50 vectors" in line for line in lines(onepass("index", "rollback", index)))
    assert told(onepass("index", "prune", index, "--keep", 1, "--json")) == {"removed": []}
    lines(onepass("index", "promote", index, "v0002"))
    assert lines(onepass("index", "prune", index, "--keep", 1)) == ["removed: v0001"]
    assert lines(onepass("index", "prune", index)) == ["removed: nothing"]


def test_missing_index_is_one_line_for_every_command(
    world: Path, tmp_path: Path, onepass: Onepass
) -> None:
    none = tmp_path / "none"
    for command in (
        ("add", none, world / "b"),
        ("delete", none, "--where", "row_id = 1"),
        ("compact", none),
        ("list", none),
        ("promote", none, "v0001"),
        ("rollback", none),
        ("prune", none),
    ):
        for more in ((), ("--json",)):
            said = only_error(*onepass("index", *command, *more))
            assert "none does not exist; make one with 'onepass index build'" in said
    assert not none.exists()


def test_what_is_asked_for_wrongly_is_one_line(
    world: Path, index: Path, tmp_path: Path, onepass: Onepass
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for command, match in {
        ("promote", index, "v0009"): "has no version 'v0009' (it has: v0001, v0002)",
        ("promote", index, "../index"): "has no version '../index'",
        ("add", index, world / "a"): "is in",
        ("add", index, world / "none"): "no such run folder",
        ("delete", index): "say which rows: --where",
        ("delete", index, "--where", "species = 1"): "there is no column 'species'",
        ("delete", index, "--where", "row_id >= 0"): "an index cannot be empty",
        ("delete", index, "--ids", tmp_path / "none.txt"): "cannot be read",
        ("delete", index, "--ids", empty): "names no detection; give one id a line",
    }.items():
        assert match in only_error(*onepass("index", *command))
    for memory in ("2 cows", "GB", "", "-1GB", "nan", "infGB", "63MB", "1"):
        command = ("index", "build", world / "a", "--out", tmp_path / "new", "--memory", memory)
        said = only_error(*onepass(*command))
        assert "--memory" in said
    assert not (tmp_path / "new").exists()
    assert current_version(index) == "v0002"
