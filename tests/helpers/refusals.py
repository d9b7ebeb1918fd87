"""The form of every refusal: exit code 2, one line on stderr, nothing on stdout."""

from __future__ import annotations


def only_error(code: int | str | None, out: str, err: str) -> str:
    """The one line of a refusal; checks that nothing else was printed."""
    assert code == 2, err
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]
