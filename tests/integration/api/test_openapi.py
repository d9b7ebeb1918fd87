"""The OpenAPI document: it equals the golden file, and answers are as it describes.

``python -m tests.integration.api.test_openapi`` writes the golden file. Random requests made from
the document must get answers that it describes; ``ONEPASS_CASES`` is their number.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import api.schemas
from api.app import create_app
from api.config import ServeConfig
from api.http.rights import RIGHTS
from tests.helpers.api.world import World, serving

GOLDEN = Path(__file__).with_name("openapi.json")
CASES = int(os.environ.get("ONEPASS_CASES", "300"))
LONGEST_QUERY = 4000  # of thousands of ids; what is percent-encoded takes up to 12 times as much
KEY = "for-the-fuzzer"


def openapi() -> dict[str, Any]:
    document = create_app(ServeConfig(index="index")).openapi()
    document["info"]["version"] = "0"  # the package's own version is not part of the contract
    return document


def test_the_document_is_the_golden_one() -> None:
    assert openapi() == json.loads(GOLDEN.read_text()), (
        "the API's contract changed; if that is intended, write the golden file again with "
        "'python -m tests.integration.api.test_openapi' and check the difference"
    )


def test_examples_fit_their_models() -> None:
    checked = 0
    for module in pkgutil.iter_modules(api.schemas.__path__, "api.schemas."):
        for model in vars(importlib.import_module(module.name)).values():
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                continue
            extra = model.model_config.get("json_schema_extra")
            for example in extra.get("examples", []) if isinstance(extra, dict) else []:
                model.model_validate(example)
                checked += 1
    assert checked >= 16


def plain_arrays(node: Any) -> Any:
    """The document with each tuple, all of one type, as an array of so many.

    Schemathesis 4.32 makes ``items: [...]`` of ``prefixItems`` and then finds that invalid.
    """
    if isinstance(node, list):
        return [plain_arrays(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: plain_arrays(value) for name, value in node.items()}
    if "prefixItems" in node:
        kinds = node.pop("prefixItems")
        assert all(kind == kinds[0] for kind in kinds)
        node["items"] = kinds[0]
    return node


@pytest.fixture
def base_url(world: World) -> Iterator[str]:
    """A server that requires a key."""
    config = ServeConfig(index=world.index)
    with serving(create_app(config, api_keys={KEY.encode(): frozenset(RIGHTS)})) as http:
        yield str(http.base_url)


@pytest.mark.timeout(1800)
def test_random_requests_get_described_answers(base_url: str, world: World) -> None:
    document = plain_arrays(httpx.get(f"{base_url}/openapi.json").json())
    schema = schemathesis.openapi.from_dict(document)
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
    ]
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 13
    cases_each = -(-CASES // sum(bool(o.body or o.query or o.path_parameters) for o in operations))
    seen: Counter[int] = Counter()
    # Ids that exist and filters that parse reach what random text never would.
    ids = st.sampled_from(["a-0", "b-3", *world.all_ids[:4]])
    wheres = st.sampled_from(["label = 'class 1'", "score > 0.6", "frame < 3 AND x1 > 5"])
    with httpx.Client(base_url=base_url, timeout=60) as http:
        for operation in operations:
            varied = operation.body or operation.query or operation.path_parameters
            cases = operation.as_strategy()
            if operation.body or operation.query:  # any text at all is a path
                cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

            @settings(
                max_examples=cases_each if varied else 1,  # those without have nothing to vary
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=cases, sane=st.booleans(), detection=ids, where=wheres)
            def send(case: Any, sane: bool, detection: str, where: str) -> None:
                if sane:
                    if "detection_id" in (case.path_parameters or {}):
                        case.path_parameters["detection_id"] = detection
                    if isinstance(case.body, dict) and "detection_id" in case.body:
                        case.body |= {"detection_id": detection, "vector": None}
                    if isinstance(case.body, dict) and "detections" in case.body:
                        plain = {"box": [1.0, 2.0, 30.0, 40.0], "vector": [1.0] * 32}
                        case.body |= {"image": None, "image_width": 99, "image_height": 99}
                        case.body["detections"] = [plain] * (len(detection) % 3)
                    if isinstance(case.body, dict) and "where" in case.body:
                        case.body["where"] = where
                case.headers = {**(case.headers or {}), "X-API-Key": KEY}
                url = case.as_transport_kwargs(base_url=base_url)
                if len(str(url.get("params"))) > LONGEST_QUERY:
                    return  # refused by uvicorn, before the service
                response = case.call(base_url=base_url, timeout=60)
                seen[response.status_code] += 1
                case.validate_response(response, checks=checks)
                assert str(world.index.parent).encode() not in response.content

            send()
        assert http.get("/readyz").status_code == 200
    print("schemathesis:", sum(seen.values()), "cases,", dict(sorted(seen.items())))
    assert sum(seen.values()) >= CASES // 2
    assert seen[200] > sum(seen.values()) // 10
    assert seen[401] == 0


def test_requests_without_a_key_are_refused(base_url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()
        guarded = operation.path.startswith("/v1/")
        for headers in ({}, {"X-API-Key": "wrong"}):
            path = operation.path.replace("{detection_id}", "a-0").replace("{track_id}", "x")
            response = httpx.request(operation.method, f"{base_url}{path}", headers=headers)
            assert (response.status_code == 401) is guarded


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(openapi(), indent=1, ensure_ascii=False) + "\n")
