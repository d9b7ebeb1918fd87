"""What a user reads when work fails or is stopped: one line, and no stack."""

from __future__ import annotations

import errno

import pytest

from common.errors import StoppedError, WorkError, work_error
from common.progress import ProgressBar


def test_the_innermost_cause_is_told_in_one_line() -> None:
    advice = "Failed to apply UDF\nTo change retry attempts"
    full = OSError(errno.ENOSPC, "No space left on device", advice)
    outer = RuntimeError("a\nlong\ntraceback")
    outer.__cause__ = full
    told = work_error("extraction", outer)
    assert isinstance(told, WorkError)
    assert str(told).startswith("extraction failed: OSError: No space left on device; what is")
    assert "\n" not in str(told)
    assert told.__cause__ is outer


def test_advice_in_a_key_error_is_left_out() -> None:
    told = work_error("extraction", KeyError("no such column\nTo change retry attempts"))
    assert str(told).startswith("extraction failed: KeyError: no such column; what is")


def test_a_cause_that_says_nothing_is_passed_over() -> None:
    error = ValueError("the block is empty")
    error.__cause__ = RuntimeError()  # as Ray Data marks what is its own
    assert str(work_error("extraction", error)).startswith(
        "extraction failed: ValueError: the block is empty; what is"
    )


@pytest.mark.parametrize(
    ("resumes", "says"), [(True, "continues where it"), (False, "starts anew")]
)
def test_ctrl_c_says_how_to_go_on(resumes: bool, says: str) -> None:
    with pytest.raises(StoppedError, match=f"the same command {says}") as caught:
        _stopped(resumes)
    assert caught.value.exit_code == 130


def _stopped(resumes: bool) -> None:
    with ProgressBar(resumes=resumes):
        raise KeyboardInterrupt
