"""What the tests of the page look for in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import parse_qs, quote, urlsplit

from playwright.sync_api import Page, expect

from tests.browser.conftest import WAIT_MS

expect.set_options(timeout=WAIT_MS)

Open = Callable[..., Page]
PER_PAGE = 48


def cards(page: Page) -> list[str]:
    return [
        str(name)
        for name in page.locator(".grid a").evaluate_all("all => all.map(a => a.dataset.id)")
    ]


def expect_cards(page: Page, ids: list[str]) -> None:
    """Wait for these cards: the status may be the same before and after a change of their order."""
    page.wait_for_function(
        """ids => {
            const shown = [...document.querySelectorAll(".grid a")].map((a) => a.dataset.id);
            return JSON.stringify(shown) === JSON.stringify(ids);
        }""",
        arg=ids,
    )


def expect_status(page: Page, text: str) -> None:
    expect(page.get_by_role("status")).to_have_text(text)


def expect_detections(page: Page, ids: list[str], *, offset: int = 0) -> None:
    """The page of ``ids`` that starts at ``offset``."""
    shown = ids[offset : offset + PER_PAGE]
    noun = "detection" if len(ids) == 1 else "detections"
    status = f"{len(ids)} {noun}, {offset + 1} to {offset + len(shown)} shown"
    expect_status(page, status)
    expect_cards(page, shown)


def expect_neighbours(page: Page, ids: Iterable[str]) -> None:
    names = list(ids)
    expect_status(page, f"{len(names)} neighbours, nearest first, by cosine similarity")
    expect_cards(page, names)


def hash_of(page: Page) -> tuple[str, dict[str, list[str]]]:
    path, _, query = urlsplit(page.url).fragment.partition("?")
    return path, parse_qs(query)


def detection_url(detection_id: str) -> str:
    return f"/#/d/{quote(detection_id, safe='')}"


def expect_loaded(page: Page, selector: str) -> None:
    """Wait until every visible picture in ``selector`` has loaded completely."""
    page.wait_for_function(
        """selector => {
            const all = [...document.querySelectorAll(selector)].filter((img) => {
                const box = img.getBoundingClientRect();
                return box.bottom > 0 && box.top < innerHeight;
            });
            return all.length > 0 && all.every((img) => img.complete && img.naturalWidth > 1);
        }""",
        arg=selector,
    )
