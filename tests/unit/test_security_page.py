"""SECURITY.md names tests that exist, and every attack of ``tests/security`` is named there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(named) > 15
    folders = (ROOT / "tests", ROOT / "benchmarks")
    files = [f"/{file.relative_to(ROOT)}" for folder in folders for file in folder.rglob("*.py")]
    assert not [name for name in named if not any(file.endswith(f"/{name}") for file in files)]


def test_the_table_names_a_test_for_each_defence() -> None:
    table = PAGE.split("## At a glance")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        assert len(row) == 3
        assert "`tests/" in row[2] or "`make check`" in row[2]
    for file in (ROOT / "tests" / "security").rglob("test_*.py"):
        assert str(file.relative_to(ROOT)) in PAGE


def test_each_exception_of_the_security_rules_has_its_reason() -> None:
    bare = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for folder in ("ami", "api", "cluster", "common", "index", "migration", "onepass",
                       "pipelines", "tracks")
        for file in (ROOT / folder).rglob("*.py")
        for line in file.read_text().splitlines()
        if re.search(r"noqa: .*S\d{3}[^-]*$", line)
    ]  # fmt: skip
    assert not bare
