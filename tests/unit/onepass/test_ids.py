"""Files of detection ids, as editors and spreadsheets write them."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from common.errors import InputError
from onepass.ids import read_ids


@pytest.mark.parametrize(
    "data",
    [
        b"a/1.jpg\n\xc3\xa9 2\n",
        b"\xef\xbb\xbfa/1.jpg\r\n\xc3\xa9 2",
        "\ufeffa/1.jpg\r\né 2\r\n".encode("utf-16-le"),
        "\ufeffa/1.jpg\n\né 2\n".encode("utf-16-be"),
        codecs.BOM_UTF8 + "detection_id\r\na/1.jpg\r\né 2\r\n".encode(),
        "\n  detection_id\ra/1.jpg\r\r é 2 \r".encode(),
        '"detection_id"\n"a/1.jpg"\n"é 2"\n"é 2"\n'.encode(),
    ],
)
def test_the_ids_of_a_file_are_those_that_were_written(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes(data)
    assert read_ids(file) == {"a/1.jpg", "é 2"}


def test_characters_of_an_id_stay(tmp_path: Path) -> None:
    file = tmp_path / "ids.csv"
    file.write_text('"a,""b"""\nline\u2028separator\nx\x85y\ndetection_id\nlast\ufeff\n')
    assert read_ids(file) == {
        'a,"b"',
        "line\u2028separator",
        "x\x85y",
        "detection_id",
        "last\ufeff",
    }


@pytest.mark.parametrize("data", [b"", b"\n \r\n", codecs.BOM_UTF8, b"detection_id\n"])
def test_a_file_without_an_id_is_a_list_of_none(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes(data)
    assert read_ids(file) == frozenset()
    assert read_ids(None) is None


@pytest.mark.parametrize("data", [None, b"\xff\xfea", b"caf\xe9\n", "a1\na2\n".encode("utf-16-le")])
def test_what_is_not_text_is_refused(tmp_path: Path, data: bytes | None) -> None:
    file = tmp_path / "ids.txt"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError, match="ids"):
        read_ids(file)
