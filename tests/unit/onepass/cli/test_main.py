"""The top of the command line: help, version, and what cannot be parsed."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import pytest

from onepass.cli import main
from onepass.cli.console import print_json


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


EVIL = "a\x1b]0;x\x07\u202e\nerror: b"
URI = "s3://AKIAKEY:S3CRET@bucket/photos"


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", EVIL],
        ["query", EVIL, "--id", EVIL],
        ["extract", EVIL, "--model", "tiny", "--out", "x"],
        ["index", EVIL],
        ["--debug", "inspect", EVIL],
    ],
)
def test_nothing_typed_acts_on_the_terminal(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _typed(*words, monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr()
    assert not {"\x1b", "\x07", "\u202e"} & {*shown.out, *shown.err}
    assert r"\x1b]0;x\x07\u202e" in shown.err
    if "--debug" not in words:  # a traceback has lines of its own
        assert "\nerror: b" not in shown.err


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    "words",
    [
        ["inspect", URI],
        ["query", URI, "--id", "a"],
        ["extract", URI, "--model", "tiny", "--out", "x"],
        ["extract", "photos", "--model", "tiny", "--out", URI],
        ["link", URI],
        ["index", "versions", URI],
        ["database", "compare", URI, URI],
        [URI],
    ],
)
def test_no_secret_of_a_uri_is_shown(
    words: list[str],
    debug: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _typed(*debug, *words, monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr()
    assert "S3CRET" not in shown.out + shown.err
    assert shown.err


def test_a_fault_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"{URI} \x1b[2J")

    monkeypatch.setattr(main, "app", fail)
    assert _typed("inspect", monkeypatch=monkeypatch) == 1
    shown = capsys.readouterr().err
    assert "RuntimeError: s3://***@bucket/photos \\x1b[2J" in shown
    assert "Traceback" in shown


def test_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"image": EVIL})
    assert json.loads(capsys.readouterr().out) == {"image": EVIL}
