"""Routes that refuse what they do not know: parameters, form fields, fields of a JSON body."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from fastapi import Request, Response, params
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import FormData

from api.http.bodies import invalid, read_body, validate
from api.http.errors import ApiError
from api.http.rights import check_right, right_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_BOOLS = {"true": True, "false": False}


class StrictRoute(APIRoute):
    """A route that refuses query parameters that it does not have, or that are given twice.

    What is ignored in silence, as ``wher=`` or ``limit=`` where it is not one, is an answer to
    another question than the one that was asked. It also refuses keys without the right it needs.
    """

    def get_route_handler(self) -> Handler:
        """What FastAPI calls for each request."""
        right = right_of(self.openapi_extra)
        handle = self.make_handler()
        known = _query_parameters(self.endpoint)

        async def checked(request: Request) -> Response:
            check_right(request.scope, right)
            if request.scope["query_string"]:
                names = [name for name, _ in request.query_params.multi_items()]
                _refuse_unknown("query", "parameter", names, known)
            return await handle(request)

        return checked

    def make_handler(self) -> Handler:
        """Reads the request and calls the route's function."""
        return super().get_route_handler()


class DirectRoute(StrictRoute):
    """A route that reads its body or parameters and answers by itself, declared like any other.

    FastAPI resolves dependencies, parses and validates step by step for any signature; that costs
    more than the search behind ``/v1/search``. The function of such a route takes the request, one
    pydantic model, the JSON body or marked as ``Query()`` or ``Form()``, and what is in the path; it
    returns a response. Path, body, answers and errors are in the OpenAPI document as usual, because
    FastAPI still reads the signature.
    """

    def make_handler(self) -> Handler:
        """Reads the model and calls the route's function."""
        endpoint = self.endpoint
        model, kind = _model_of(endpoint)
        known = {name: _is_list(field.annotation) for name, field in model.model_fields.items()}

        async def of_json(request: Request) -> Response:
            body = await read_body(request, model, request.app.state.body_limiter)
            response: Response = await endpoint(request, body, **request.path_params)
            return response

        async def of_query(request: Request) -> Response:
            values = _read_values(request.query_params.multi_items(), known, model)
            options = validate("query", model, values)
            response: Response = await endpoint(request, options, **request.path_params)
            return response

        async def of_form(request: Request) -> Response:
            form = await _read_form(request)
            try:
                # Browsers send an empty text for a field that was left out.
                items = [
                    (name, value)
                    for name, value in form.multi_items()
                    if value != "" or known.get(name, True)
                ]
                _refuse_unknown("body", "field", [name for name, _ in items], known)
                values = _read_values(items, known, model)
                body = validate("body", model, values)
                response: Response = await endpoint(request, body, **request.path_params)
                return response
            finally:
                await form.close()

        return {"query": of_query, "form": of_form, "json": of_json}[kind]


def _query_parameters(endpoint: Callable[..., Any]) -> dict[str, bool]:
    """The query parameters of a route's function, and whether each may be given several times."""
    known: dict[str, bool] = {}
    for name, hint in get_type_hints(endpoint, include_extras=True).items():
        kind, *marks = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        if not any(isinstance(mark, params.Query) for mark in marks):
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            known |= {n: _is_list(field.annotation) for n, field in kind.model_fields.items()}
        else:
            known[name] = _is_list(kind)
    return known


def _model_of(endpoint: Callable[..., Any]) -> tuple[type[BaseModel], str]:
    """The second parameter of a direct route's function: its model, and what it is read from."""
    name = list(inspect.signature(endpoint).parameters)[1]
    hint = get_type_hints(endpoint, include_extras=True)[name]
    model, *marks = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    for mark, kind in ((params.Query, "query"), (params.Form, "form")):
        if any(isinstance(given, mark) for given in marks):
            return model, kind
    return model, "json"


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is list or any(_is_list(part) for part in get_args(hint))


def _read_values(
    items: Iterable[tuple[str, Any]], known: Mapping[str, bool], model: type[BaseModel]
) -> dict[str, Any]:
    """Text of a query or form as a model takes it: lists of what may be given several times.

    One empty text is an empty list, which a query or form cannot express otherwise.
    """
    values: dict[str, Any] = {}
    for name, value in items:
        if known[name]:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    for name, value in values.items():
        if value == [""]:
            values[name] = []
            continue
        either = known[name] and bool in get_args(model.model_fields[name].annotation)
        if either and len(value) == 1 and value[0] in _BOOLS:
            values[name] = _BOOLS[value[0]]
    return values


async def _read_form(request: Request) -> FormData:
    try:
        form: FormData = await request.form()
    except (ValueError, LookupError):
        raise ApiError(
            400, "bad_request", "the form cannot be read; send multipart/form-data"
        ) from None
    return form


def _refuse_unknown(
    location: str, what: str, names: Iterable[str], known: Mapping[str, bool]
) -> None:
    """Check the names of a request.

    Raises:
        RequestValidationError: one is not known, or is given twice and must not be.
    """
    seen = set()
    for name in names:
        if name not in known:
            raise invalid(location, _unknown(what, name, known))
        if name in seen and not known[name]:
            raise invalid(location, f"the {what} {name} is given more than once")
        seen.add(name)


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    return f"there is no {what} {name[:100]!r}; there is {', '.join(known) or 'none'}"
