"""The top of the command line: help, version, and what cannot be parsed."""

from __future__ import annotations

import sys
from importlib.metadata import version

import pytest

from onepass.cli import main


def _typed(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["onepass", *words])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_every_command_is_in_one_panel() -> None:
    listed = [name for names in main.PANELS.values() for name in names]
    assert len(set(listed)) == len(listed)
    single = {command.callback.__name__ for group in main.app.registered_groups if not group.name
              for command in group.typer_instance.registered_commands if command.callback}  # fmt: skip
    groups = {group.name for group in main.app.registered_groups if group.name}
    assert set(listed) == single | groups


@pytest.mark.parametrize("words", [["--help"], ["extract", "--help"], ["index", "--help"]])
def test_help_ends_well(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _typed(*words, monkeypatch=monkeypatch) == 0
    assert "Usage" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _typed("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.strip() == version("onepass")


@pytest.mark.parametrize(
    "words", [["nothing"], ["extract"], ["extract", "x", "--nothing"], ["query", "x", "-k", "many"]]
)
def test_what_cannot_be_parsed_is_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _typed(*words, monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
