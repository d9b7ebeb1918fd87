"""Encodings of text files, and what is shown of text from outside."""

from __future__ import annotations

import pytest

from common.errors import OnepassError, first_line
from common.text import GUESSED, decode, hide_secrets, printable


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


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b]0;title\x07.jpg", r"a\x1b]0;title\x07.jpg"),
        ("a\nerror: all is lost\r.jpg", r"a\nerror: all is lost\r.jpg"),
        ("a\x9b2J.jpg", r"a\x9b2J.jpg"),  # a control sequence in one byte
        ("gpj.\u202efdp.exe", r"gpj.\u202efdp.exe"),
        ("a\u2066b\u2069\u200f.jpg", r"a\u2066b\u2069\u200f.jpg"),
        ("a\u2028b\u2029\x85.jpg", r"a\u2028b\u2029\x85.jpg"),
        ("\ufeffa\u200b.jpg", r"\ufeffa\u200b.jpg"),
        ("caf\udce9.jpg", r"caf\xe9.jpg"),
        ("é 漢字 🦋 👩\u200d🔬 क\u200cष.jpg", "é 漢字 🦋 👩\u200d🔬 क\u200cष.jpg"),
        ("", ""),
    ],
)
def test_what_acts_on_a_terminal_is_escaped(raw: str, shown: str) -> None:
    assert printable(raw) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("s3://KEY:SECRET@bucket/a b", "s3://***@bucket/a b"),
        ("'gs://KEY:SEC/RE+T=@bucket'", "'gs://***@bucket'"),
        (
            "postgresql+psycopg://me:SECRET@host:5432/ami?x=1",
            "postgresql+psycopg://***@host:5432/ami?x=1",
        ),
        ("https://store/a?X-Amz-Signature=SECRET&b=1", "https://store/a?X-Amz-Signature=***&b=1"),
        ("postgresql://h/n?user=me&password=SECRET", "postgresql://h/n?user=me&password=***"),
        ("a://k:SECRET@x and b://k:SECRET@y", "a://***@x and b://***@y"),
        ("http://host:9000/a@b.jpg", "http://host:9000/a@b.jpg"),
        ("postgresql+psycopg://user@host/name", "postgresql+psycopg://user@host/name"),
        ("mail me: a:b@c", "mail me: a:b@c"),
    ],
)
def test_secrets_in_urls_are_hidden(raw: str, shown: str) -> None:
    assert hide_secrets(raw) == shown
    assert str(OnepassError(raw)) == shown
    assert first_line(ValueError(raw)) == shown
