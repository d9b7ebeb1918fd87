"""Class names, as editors, spreadsheets and programs write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import ModelError
from pipelines.models.labels import read_labels

NAMES = ("Fliege", "Käfer", "moth, small")


def write(folder: Path, data: bytes, name: str = "labels.txt") -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"]
)
@pytest.mark.parametrize(
    "text", ["\n".join(NAMES), "\r\n".join([*NAMES, "", " ", ""]), "\r".join(NAMES)]
)
def test_names_are_those_of_the_lines(tmp_path: Path, encoding: str, text: str) -> None:
    notes: list[str] = []
    assert read_labels(write(tmp_path, text.encode(encoding)), notes.append) == NAMES
    assert len(notes) == (encoding in ("latin-1", "cp1252"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_names_of_json(tmp_path: Path, encoding: str) -> None:
    for data in (NAMES, {name: NAMES.index(name) for name in reversed(NAMES)}):
        text = json.dumps(data, ensure_ascii=False)
        assert read_labels(write(tmp_path, text.encode(encoding), "labels.JSON")) == NAMES


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b""),
        ("a.txt", b"\n \n"),
        ("a.txt", b"fly\n\nmoth\n"),
        ("a.txt", b"fly\n\0\n"),
        ("a.txt", "fly\n".encode("utf-16-le")),
        ("a.json", b"{"),
        ("a.json", b"3"),
        ("a.json", b'"fly"'),
        ("a.json", b'{"fly": 0, "moth": 2}'),
        ("a.json", b'{"0": "fly", "1": 1}'),
        ("a.json", b'{"0": ["n01", "fly"]}'),
        ("a.json", b'[["fly"]]'),
        ("a.json", b'{"fly": true}'),
    ],
)
def test_what_is_no_list_of_names_is_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(ModelError, match="labels") as caught:
        read_labels(write(tmp_path, data, name))
    assert "\n" not in str(caught.value)
