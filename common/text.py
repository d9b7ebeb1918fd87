"""Text from outside: the encoding of files, and what may be shown of names and messages."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata

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


# A user with a password before the host, whose secret may hold a slash; a port is none.
_IN_URL = re.compile(r"(?<=://)[^\s/:@]*:(?!\d*/)[^\s@]*@")
_IN_QUERY = re.compile(r"(?i)([?&][\w-]*(?:password|secret|token|signature)[\w-]*=)[^&\s]+")


def hide_secrets(text: str) -> str:
    """A message with ``***`` in place of passwords and keys in URLs.

    Example:
        >>> hide_secrets("s3://KEY:SECRET@bucket/photos is missing")
        's3://***@bucket/photos is missing'
    """
    if "://" not in text:
        return text
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub("***@", text))


def printable(line: str) -> str:
    r"""A line as it may go to a terminal: without secrets, and with what would act there escaped.

    Names of files and other text from outside may hold control characters, which move the cursor or
    change colours and titles, line ends, and marks that turn the direction of text.

    Example:
        >>> printable("a\x1b[2J\n.jpg")
        'a\\x1b[2J\\n.jpg'
    """
    line = hide_secrets(line)
    if line.isascii() and line.isprintable():
        return line
    return "".join(_escaped(letter) if _acts(letter) else letter for letter in line)


def _acts(letter: str) -> bool:
    kind = unicodedata.category(letter)
    # Of the format characters those that join letters are kept: scripts and emoji need them.
    joins = letter in "\u200c\u200d\u00ad" or "\U000e0020" <= letter <= "\U000e007f"
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and not joins)


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()
