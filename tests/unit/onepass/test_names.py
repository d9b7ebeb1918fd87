"""The names of the package: light to import, typed as the configurations are."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_type_hints

import pytest
import typer
from pydantic import BaseModel, TypeAdapter

import onepass
from onepass.cli import migrate
from onepass.options import DetectOptions, ExtractOptions, LinkKeywords, ModelOptions
from pipelines.config import READING, ExtractConfig
from pipelines.detected.config import DetectConfig
from tracks.association.options import LinkOptions

HEAVY = ("torch", "ray", "faiss", "pyarrow", "pandas", "pydantic", "numpy")


def test_importing_loads_nothing_heavy() -> None:
    script = f"import sys, onepass; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", onepass.__all__)
def test_every_name_is_there_with_its_description(name: str) -> None:
    assert getattr(onepass, name).__doc__
    assert name in dir(onepass)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        onepass.room  # noqa: B018


@pytest.mark.parametrize(
    ("keywords", "config", "others"),
    [
        (ExtractOptions, ExtractConfig, {"source", "model", "from_run"}),
        (LinkKeywords, LinkOptions, set()),
        (DetectOptions, DetectConfig, {"source", "detector", "checkpoint"}),
    ],
)
def test_keywords_are_the_fields_of_the_configuration(
    keywords: Any, config: type[BaseModel], others: set[str]
) -> None:
    types = get_type_hints(config)
    assert set(keywords.__annotations__) == set(types) - others
    for name, annotation in get_type_hints(keywords).items():
        given, wanted = (TypeAdapter(kind).json_schema() for kind in (annotation, types[name]))
        assert _kinds(given) >= _kinds(wanted) - {"array"} or given == wanted, name


def _kinds(schema: dict[str, Any]) -> set[str]:
    """Types and choices of a JSON schema, however they are nested."""
    kinds = {str(value) for value in schema.get("enum", ())} | {str(schema.get("type"))}
    for part in (*schema.get("anyOf", ()), *filter(None, [schema.get("items")])):
        kinds |= _kinds(part) if isinstance(part, dict) else set()
    return kinds - {"None"}


def test_a_migration_reads_as_its_run_did() -> None:
    command = typer.main.get_command(migrate.app)
    options = {parameter.name for parameter in command.params}
    assert not options & READING - {"from_run"}
    assert set(ExtractOptions.__annotations__) - set(ModelOptions.__annotations__) == {
        *(READING - {"source", "from_run"}),
        "id_prefix",
    }
