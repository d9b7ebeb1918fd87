"""Encodings of text files."""

from __future__ import annotations

import pytest

from common.text import GUESSED, decode


@pytest.mark.parametrize("text", ["", "a", "é\r\n漢字 🦋", "\u2028x"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_a_mark_or_utf_8_says_the_encoding(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)
    assert decode(text.encode("utf-8-sig")) == (text, "utf-8")


def test_big_endian_is_told_by_its_mark() -> None:
    assert decode("\ufeffé".encode("utf-16-be")) == ("é", "utf-16")
    assert decode("\ufeffé".encode("utf-32-be")) == ("é", "utf-32")


def test_all_else_is_latin_1() -> None:
    assert decode("é €".encode("cp1252")) == ("é €", GUESSED)
    assert decode(b"\x81\xe9") == ("\x81é", GUESSED)


@pytest.mark.parametrize(
    "data", ["é".encode("utf-16-le"), b"a\0", b"\xff\xfea", b"\xff\xfe\x00\xd8"]
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)
