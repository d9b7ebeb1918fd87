"""Text files as people have them: the encoding is that of the file's first bytes, or UTF-8."""

from __future__ import annotations

import codecs
import os

GUESSED = "cp1252"
"""What a text is read as that says nothing and is not UTF-8: Latin-1, as Windows has it."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode(data: bytes) -> tuple[str, str]:
    """The text of a file and its encoding.

    Args:
        data: the whole file, in UTF-8 with or without a byte order mark, in UTF-16 or UTF-32 with
            one, or in Latin-1.

    Returns:
        The text without the mark; ``utf-8``, ``utf-16``, ``utf-32``, or ``GUESSED`` where it is none
        of them.

    Raises:
        ValueError: it is not text.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(
                f"it begins as {encoding.upper()} and is not ({error.reason})"
            ) from None
        encoding, text = GUESSED, _latin_1(data)
    if "\0" in text:
        raise ValueError(
            "it holds zero bytes, so it is no text, or UTF-16 without its mark; save it as UTF-8"
        )
    return text, encoding.removesuffix("-sig")


def _latin_1(data: bytes) -> str:
    try:
        return data.decode(GUESSED)
    except UnicodeDecodeError:  # five bytes have no meaning there
        return data.decode("latin-1")


def is_text(name: str) -> bool:
    """Whether the name of a file can be written down: file systems allow any bytes."""
    return name.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in name)


def escape(name: str) -> str:
    r"""The name of a file to be shown; bytes that are not UTF-8 as ``\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
