"""A hook of MkDocs: pages, and parts of pages, that are made from the code when the site is built.

``<!-- command line -->`` becomes all commands with their options, ``<!-- routes -->`` a table of the
routes of the service, ``<!-- fields of MODULE:CLASS -->`` one of a configuration's fields.
CONTRIBUTING.md, SECURITY.md and CHANGELOG.md become pages.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import griffe
import typer
from mkdocs.structure.files import File, Files

from onepass.cli.main import app

ROOT = Path(__file__).parents[1]
OPENAPI = ROOT / "tests/integration/api/openapi.json"
OF_THE_ROOT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


class Examples(griffe.Extension):
    """Sections ``Example:`` of docstrings become blocks of code, as ``Examples:`` do."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object that is read."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")


def on_files(files: Files, *, config: Any) -> Files:
    """Add what stands in the root of the repository; its links start from there."""
    for name in OF_THE_ROOT:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is made from the code where the page asks for it."""
    markdown = markdown.replace("<!-- command line -->", "\n".join(command_line()))
    markdown = markdown.replace("<!-- routes -->", "\n".join(routes()))
    return re.sub(
        r"<!-- fields of ([\w.]+):(\w+) -->",
        lambda asked: "\n".join(fields(getattr(import_module(asked[1]), asked[2]))),
        markdown,
    )


def command_line() -> Iterator[str]:
    """A section for each command."""
    root = typer.main.get_command(app)
    for name, command in commands(root, "onepass"):
        context = typer.Context(command, info_name=name)
        usage = command.collect_usage_pieces(context)
        yield f"## {name}\n"
        yield f"```text\n{' '.join([name, *usage])}\n```\n"
        yield from described(inspect.cleandoc(command.help or ""))
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in command.params:
            record = parameter.get_help_record(context)
            panel = getattr(parameter, "rich_help_panel", None) or "Parameters"
            if record is not None:
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            yield f"**{panel}**\n"
            yield from table(("parameter", "meaning"), records)


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Names and commands below a group, in the order of its help."""
    for part in group.list_commands(typer.Context(group)):
        command = group.commands[part]
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {part}")
        else:
            yield f"{name} {part}", command


def described(text: str) -> Iterator[str]:
    """A command's help; its example as a block of code."""
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        before, found, example = line.partition("Example: ")
        yield f"{before}\n\n```sh\n{example}\n```\n" if found else f"{plain(line)}\n"


def routes() -> Iterator[str]:
    """A table of the routes of the service, from the document that its tests compare it with."""
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    rows = [
        (f"{method.upper()} {path}", route["summary"])
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    yield from table(("route", "answer"), rows)


def fields(config: Any) -> Iterator[str]:
    """A table of the fields of a pydantic model that have a description."""
    rows = [
        (
            name,
            type_name(field.annotation),
            "required" if field.is_required() else f"`{field.get_default()!r}`",
            field.description,
        )
        for name, field in config.model_fields.items()
        if field.description
    ]
    yield from table(("field", "type", "default", "meaning"), rows)


def type_name(annotation: Any) -> str:
    """A type as people write it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(parts[0])
    if origin is Literal:
        return " or ".join(f"`{part!r}`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, parts))
    if origin is tuple:
        return f"tuple of {'' if Ellipsis in parts else f'{len(parts)} '}{type_name(parts[0])}"
    return "`None`" if annotation is NoneType else f"`{annotation.__name__}`"


def table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    """A Markdown table; its first column is code."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for first, *others in rows:
        yield f"| `{first}` | {' | '.join(plain(cell) for cell in others)} |"
    yield ""


def plain(text: str) -> str:
    """Text whose characters mean nothing to Markdown, unless it is code."""
    text = " ".join(text.split())
    return text if text.startswith("`") else re.sub(r"([|<*_\[\]])", r"\\\1", text)
