"""The documentation of the API: the OpenAPI document, shown by this server's own script."""

from __future__ import annotations

import httpx
from playwright.sync_api import expect

from tests.browser.page import Open


def test_every_route_and_model_is_shown(service: str, open_page: Open) -> None:
    document = httpx.get(f"{service}/openapi.json").json()
    page = open_page(f"{service}/docs")
    expect(page.get_by_role("heading", level=1)).to_contain_text("onepass")
    routes = [
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
    ]
    shown = page.get_by_role("heading", level=3).all_inner_texts()
    assert shown == [*routes, *document["components"]["schemas"]]
    search = page.locator("#model-SearchRequest")
    expect(search).to_contain_text("items, at most 65536")
    page.get_by_role("link", name="SearchRequest").first.click()
    assert page.url.endswith("#model-SearchRequest")


def test_nothing_is_loaded_from_elsewhere(service: str, open_page: Open) -> None:
    page = open_page(f"{service}/docs")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    loaded = page.evaluate("performance.getEntriesByType('resource').map((each) => each.name)")
    assert loaded
    assert not [name for name in loaded if not name.startswith(service)]
