"""Options of a command from the fields of its configuration: one declaration of each."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from onepass.cli.flags import option_of


def with_config(
    config: type[BaseModel],
    *,
    leave_out: Collection[str] = (),
    parameter: str = "options",
    preset: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of a configuration.

    Args:
        config: its fields become options with their type, default, limits and description.
        leave_out: fields that the command declares itself, or that are not for people.
        parameter: of the command, that receives the fields and their values.
        preset: whether the command has other values than the defaults for options that are not
            given; these are then not among the fields.

    Returns:
        A decorator of ``command(…, options: dict[str, Any], …)``.
    """
    names = [name for name in config.model_fields if name not in leave_out]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters

        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(name) for name in names}
            if preset:
                values = {name: value for name, value in values.items() if value is not None}
            command(**{parameter: values}, **given)

        parameters: list[inspect.Parameter] = []
        for each in own.values():
            if each.name == parameter:
                fields = {name: config.model_fields[name] for name in names}
                parameters += [_parameter(*field, preset=preset) for field in fields.items()]
            else:
                parameters.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {}  # Typer resolves these as well; the signature has them all
        return run

    return decorate


def _parameter(name: str, field: FieldInfo, *, preset: bool) -> inspect.Parameter:
    extra = field.json_schema_extra
    limits = {
        limit: getattr(each, bound)
        for each in field.metadata
        for bound, limit in (("ge", "min"), ("le", "max"))
        if hasattr(each, bound)
    }
    default = inspect.Parameter.empty if field.is_required() else field.get_default()
    shown: bool | str = True
    if preset:
        shown, default = default is not None and str(default), None
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    kind = _typed(field.annotation, optional=default is None)
    flag = option_of(name)
    if kind == bool | None:  # three values: on, off, not given
        flag += "/--no-" + flag.removeprefix("--")
    option = typer.Option(
        flag,
        help=field.description,
        show_default=shown,
        rich_help_panel=extra["panel"] if isinstance(extra, dict) else None,  # type: ignore[arg-type]
        **limits,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )


def _typed(annotation: Any, *, optional: bool) -> Any:
    """The type that Typer parses; several values are one text with commas."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return _typed(parts[0], optional=optional)
    if get_origin(annotation) is Annotated:
        return _typed(get_args(annotation)[0], optional=optional)
    plain = annotation if annotation in (int, float, bool) else str
    if get_origin(annotation) is Literal:
        plain = annotation
    return plain | None if optional else plain
