"""Progress where there is no terminal: lines in a log, one output in a notebook; and Ctrl-C."""

from __future__ import annotations

import builtins
import sys
from types import SimpleNamespace

import pytest

import common.progress
from common.errors import StoppedError
from common.progress import ProgressBar, progress


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.0, 1.0, 9.0, 11.0, 12.0])
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(common.progress, "time", clock)
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours are not a terminal
    with ProgressBar() as bar:
        bar.callback("read")(0, 40)
        progress("read", 10, 40)  # of code without a callback
        bar.update("read", 30, 40, note="2 errors")
        bar.update("read", 40, 40)
    progress("read", 1, 1)  # no bar is open
    assert capsys.readouterr() == ("", "read: 30 of 40 10/s  2 errors\n")


def test_a_notebook_has_one_output_that_is_updated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, updated = [], []

    def display(value: object, *, display_id: bool) -> object:
        assert display_id
        shown.append(value)
        return SimpleNamespace(update=updated.append)

    monkeypatch.setattr(builtins, "get_ipython", type("ZMQInteractiveShell", (), {}), raising=False)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    with ProgressBar() as bar:
        for stage in ("read", "write"):
            for done in (1, 2, 3):
                bar.update(stage, done, 3)
    assert len(shown) == 1
    assert shown == updated[-1:]
    assert "3/3" in shown[0]._repr_mimebundle_([], [])["text/plain"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("resumes", "error", "message"),
    [
        (True, StoppedError, "continues where it"),
        (False, StoppedError, "starts anew"),
        (None, KeyboardInterrupt, "^$"),
    ],
)
def test_ctrl_c(resumes: bool | None, error: type[BaseException], message: str) -> None:
    with pytest.raises(error, match=message), ProgressBar(resumes=resumes):
        raise KeyboardInterrupt
    assert ProgressBar.current is None
