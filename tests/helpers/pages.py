"""The README and the pages of ``docs/``: their blocks of code, in order.

A block whose first line is ``# needs …`` (a cluster, a bucket, Kubernetes) is not run: its commands
are parsed, so that no option is named that does not exist.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(file.relative_to(ROOT)) for file in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
)


class Block(NamedTuple):
    """A fenced block of code; ``needs`` says what it cannot run without."""

    language: str
    text: str
    needs: str | None

    @property
    def lines(self) -> list[str]:
        """Commands of a shell block, comments left out."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def blocks(page: str, *languages: str) -> list[Block]:
    """The blocks of a page in these languages."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        needs = re.match(r"# needs (.+)\n", body)
        if language in languages:
            found.append(Block(language, body, needs[1] if needs else None))
    return found


def inline_commands(page: str) -> list[str]:
    """Commands of onepass in the text itself, as `` `onepass link RUN` `` in a table."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return [f"onepass {words}" for words in re.findall(r"`onepass ([a-z][^`…]*)`", text)]


def command_of(program: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The command that words call, and its own arguments.

    Raises:
        AssertionError: there is no such command.
    """
    while hasattr(program, "commands"):
        assert words, f"{program.name}: which command?"
        assert words[0] in program.commands, f"no command {words[0]!r}"
        program, words = program.commands[words[0]], words[1:]
    return program, words


def check_options(program: Any, words: list[str]) -> list[str]:
    """Check that a command and all options given to it exist; what follows ``--`` is returned."""
    command, given = command_of(program, words)
    options = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("-")
    } | {"--help"}
    if "--" in given:
        given, after = given[: given.index("--")], given[given.index("--") + 1 :]
    else:
        after = []
    for word in given:
        if re.match(r"--?[a-z]", word):
            assert word in options, f"{command.name} has no option {word}"
    return after
