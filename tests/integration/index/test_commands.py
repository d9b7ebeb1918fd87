"""``onepass index …``: what each command prints, as lines and as JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from index.search.snapshot import current_version
from tests.helpers.commands import here
from tests.helpers.refusals import only_error


def lines(*command: object) -> list[str]:
    ended = here("index", *command)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines() + ended.stderr.splitlines()


def document(*command: object) -> Any:
    return json.loads("\n".join(lines(*command, "--json")))


def refusal(*command: object) -> str:
    ended = here("index", *command)
    return only_error(ended.returncode, ended.stdout, ended.stderr)


def test_build(world: Path, tmp_path: Path) -> None:
    command = ("build", world / "first", world / "second", "--memory", "1.5GB", "--shards", 2)
    command = (*command, "--out", tmp_path / "index", "--metric", "l2")
    first = document(*command)
    assert (first["rows"], first["version"], first["verified"]) == (160, "v0001", False)
    assert first["options"] == {"metric": "l2", "factory": "auto", "recall": 0.95, "shards": 2}
    output = lines(*command, "--factory", "HNSW8")
    assert any(line.endswith("v0002: 160 vectors of 32, l2") for line in output)
    assert any("onepass query" in line for line in output)


def test_a_candidate_is_served_once_it_is_promoted(world: Path, index: Path) -> None:
    output = lines("build", world / "second", "--out", index, "--candidate", "--metric", "ip")
    assert output[-1] == f"next: onepass index promote {index} v0003"
    assert current_version(index) == "v0002"
    assert document("promote", index, "v0003")["rows"] == 40


def test_add_and_compact(world: Path, index: Path) -> None:
    added = document("add", index, world / "second")
    assert (added["rows"], added["deleted"], added["version"]) == (140, 20, "v0003")
    compacted = document("compact", index, "--memory", "100MB")
    assert (compacted["rows"], compacted["deleted"], len(compacted["segments"])) == (140, 0, 1)
    assert any("140 vectors of 32" in line for line in lines("compact", index))


def test_delete(index: Path, tmp_path: Path) -> None:
    where = ("delete", index, "--where")
    assert document(*where, "row_id < 10")["rows"] == 90
    assert lines(*where, "row_id < 12")[0] == "2 rows deleted"
    assert lines(*where, "row_id < 12")[0] == "no rows match, so nothing was published"
    ids = tmp_path / "ids.txt"
    ids.write_text("a20\n\n a21 \nnobody\n")
    deleted = here("index", "delete", index, "--ids", ids, "--json")
    assert json.loads(deleted.stdout)["rows"] == 86
    assert "1 of the 3 --ids are not in" in deleted.stderr
    assert "'nobody'" in deleted.stderr
    ids.write_bytes("detection_id\r\na22\r\n".encode("utf-16"))
    assert document("delete", index, "--ids", ids)["rows"] == 85
    ids.write_text("")
    assert lines("delete", index, "--ids", ids)[0] == "no rows match, so nothing was published"


def test_list_promote_rollback_prune(index: Path) -> None:
    first, second = document("list", index)
    assert (first["version"], first["current"], first["rows"]) == ("v0001", False, 120)
    assert (second["version"], second["current"], second["rows"]) == ("v0002", True, 100)
    assert first["bytes"] > 120 * 32 * 4
    assert [line[:7] for line in lines("list", index)] == ["  v0001", "* v0002"]
    assert document("rollback", index)["version"] == "v0001"
    assert document("promote", index, "v0002")["version"] == "v0002"
    assert any("v0001: 120 vectors" in line for line in lines("rollback", index))
    assert document("prune", index, "--keep", 1) == {"removed": []}
    lines("promote", index, "v0002")
    assert lines("prune", index, "--keep", 1) == ["removed: v0001"]
    assert lines("prune", index) == ["removed: nothing"]


def test_missing_index_is_one_line_for_every_command(world: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    for command in (
        ("add", none, world / "second"),
        ("delete", none, "--where", "row_id = 1"),
        ("compact", none),
        ("list", none),
        ("promote", none, "v0001"),
        ("rollback", none),
        ("prune", none),
    ):
        assert "none does not exist" in refusal(*command)
        assert refusal(*command, "--json") == refusal(*command)
    assert not none.exists()


def test_wrong_arguments_are_one_line(world: Path, index: Path, tmp_path: Path) -> None:
    for command, match in {
        ("promote", index, "v0009"): "(it has: v0001, v0002)",
        ("promote", index, "../index"): "has no version '../index'",
        ("add", index, world / "first"): "is in",
        ("add", index, world / "none"): "no such run folder",
        ("delete", index): "--where",
        ("delete", index, "--where", "species = 1"): "there is no column 'species'",
        ("delete", index, "--where", "row_id >= 0"): "an index cannot be empty",
        ("delete", index, "--ids", tmp_path / "none.txt"): "--ids",
    }.items():
        assert match in refusal(*command)
    new = ("build", world / "first", "--out", tmp_path / "new")
    for memory in ("2 cows", "63MB"):
        assert "--memory" in refusal(*new, "--memory", memory)
    assert "--recall" in refusal(*new, "--recall", 0)
    assert not (tmp_path / "new").exists()
    assert current_version(index) == "v0002"
