"""What a user reads when work fails or is stopped: one line, and no stack."""

from __future__ import annotations

import errno

import pytest

from cluster.console import Bar
from cluster.errors import StoppedError, WorkError
from pipelines.extract import _as_work_error


def test_the_innermost_cause_is_told_in_one_line() -> None:
    advice = "Failed to apply UDF\nTo change retry attempts"
    full = OSError(errno.ENOSPC, "No space left on device", advice)
    outer = RuntimeError("a\nlong\ntraceback")
    outer.__cause__ = full
    told = _as_work_error(outer)
    assert isinstance(told, WorkError)
    assert str(told).startswith("extraction failed: OSError: No space left on device; what is")
    assert "\n" not in str(told)
    assert told.__cause__ is outer


def test_ctrl_c_says_how_to_go_on() -> None:
    with pytest.raises(StoppedError, match="the same command continues") as caught, Bar():
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
