"""One line out of a nested error, without advice and stack."""

from __future__ import annotations

import errno

import pytest

from common.errors import WorkError, work_error


def test_the_innermost_cause_is_the_message() -> None:
    advice = "Failed to apply UDF\nTo change retry attempts"
    disk_full = OSError(errno.ENOSPC, "No space left on device", advice)
    outer = RuntimeError("a\nlong\ntraceback")
    outer.__cause__ = disk_full
    error = work_error("extraction", outer)
    assert isinstance(error, WorkError)
    assert str(error).startswith("extraction failed: OSError: No space left on device; what is")
    assert "\n" not in str(error)
    assert error.__cause__ is outer


def _with_empty_cause() -> ValueError:
    error = ValueError("the block is empty")
    error.__cause__ = RuntimeError()  # as Ray Data marks its own errors
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("no such column\nTo change retry attempts"), "KeyError: no such column"),
        (_with_empty_cause(), "ValueError: the block is empty"),
    ],
)
def test_advice_and_empty_causes_are_left_out(error: Exception, line: str) -> None:
    assert str(work_error("extraction", error)).startswith(f"extraction failed: {line}; what is")
