"""What an audit says: a vulnerability fails, and no audit is never taken for a clean one."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest

from tests.helpers import audit

CLEAN = {"name": "rich", "version": "1", "vulns": []}
SKIPPED = {"name": "onepass", "skip_reason": "not found on PyPI"}
BAD = {
    "name": "pillow",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}],
}


def verdict(*packages: object, **ignored: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): why for name, why in ignored.items()}
    code, lines = audit.verdict({"dependencies": packages}, named)
    return code, "\n".join(lines)


def test_a_vulnerability_fails_and_says_which_version_is_better() -> None:
    code, said = verdict(CLEAN, BAD)
    assert code == 1
    assert "VULNERABLE: pillow 2: PYSEC-1, fixed in 3\n2 packages audited, 1 open" in said


def test_one_that_is_ignored_needs_a_reason_and_a_package() -> None:
    assert verdict(BAD, CVE_1="we never read TIFF") == (
        0,
        "ignored: pillow 2: PYSEC-1: we never read TIFF\n"
        "1 packages audited, 0 open vulnerabilities",
    )
    assert "no longer found, take it off the list: CVE-2" in verdict(CLEAN, CVE_2="why")[1]


def test_what_was_not_audited_is_said() -> None:
    code, said = verdict(CLEAN, SKIPPED)
    assert code == 0
    assert "not audited, PyPI does not know them: onepass" in said


def test_nothing_audited_is_not_clean() -> None:
    """As pip-audit says 'No known vulnerabilities found' behind a mirror."""
    for answer in ({"dependencies": [SKIPPED]}, {"dependencies": []}, None):
        code, (said,) = audit.verdict(answer, {})
        assert code == 0
        assert said.startswith("NOT AUDITED: ")


def test_a_service_that_is_not_there_gives_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(stdout: str) -> object:
        return lambda *_, **__: SimpleNamespace(stdout=stdout, stderr="a\nConnectionError")

    monkeypatch.setattr(subprocess, "run", answer(""))
    assert audit.ask() is None
    monkeypatch.setattr(subprocess, "run", answer(json.dumps({"dependencies": [CLEAN]})))
    assert audit.ask() == {"dependencies": [CLEAN]}

    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("pip-audit", 1)

    monkeypatch.setattr(subprocess, "run", late)
    assert audit.ask() is None
