"""The keyboard, a phone, and links of the page."""

from __future__ import annotations

from urllib.parse import quote

from playwright.sync_api import expect

from tests.browser.conftest import EVIL, World
from tests.browser.page import (
    Open,
    detection_url,
    expect_detections,
    expect_status,
)


def test_keyboard_alone(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    expect_detections(page, world.ids)
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Skip to content")
    page.keyboard.press("/")
    expect(focused).to_have_attribute("name", "label")
    page.keyboard.type("fly")  # a select goes to what is typed
    flies = [name for name, label in zip(world.ids, world.labels, strict=True) if label == "fly"]
    expect_detections(page, flies)
    expect(focused).to_have_attribute("name", "label")  # nothing took it away
    for _ in range(30):  # a field for a time has eight stops
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "card":
            break
    assert focused.get_attribute("data-id") == flies[0]
    outline = focused.evaluate("element => getComputedStyle(element).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert focused.get_attribute("data-id") == flies[1]
    page.keyboard.press("End")
    assert focused.get_attribute("data-id") == flies[-1]
    page.keyboard.press("Home")
    in_row = page.locator(".grid a").evaluate_all(
        "all => all.filter((a) => a.offsetTop === all[0].offsetTop).length"
    )
    page.keyboard.press("ArrowDown")
    assert focused.get_attribute("data-id") == flies[in_row]
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Back")).to_be_visible()
    expect(page.locator("dd code")).to_have_text(flies[in_row])
    page.keyboard.press("Tab")  # from the heading on
    expect(focused).to_have_text("← Back")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Neighbours of this")
    page.keyboard.press("Enter")
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    page.go_back()
    expect(page.locator("dd code")).to_have_text(flies[in_row])
    page.keyboard.press("Escape")
    expect_detections(page, flies)
    expect(focused).to_have_attribute("data-id", flies[in_row])  # where it was


def test_closing_a_detection_that_was_opened_by_its_link(open_page: Open, service: str) -> None:
    page = open_page(service + detection_url("m-5"))
    expect(page.get_by_role("heading", level=1)).not_to_have_text("Detection")
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", level=1)).to_have_text("Detections")


def test_a_phone_needs_no_scrolling_sideways(open_page: Open, service: str, world: World) -> None:
    page = open_page(service, width=360, height=740)
    wide = "document.documentElement.scrollWidth"
    expect_detections(page, world.ids)
    assert page.evaluate(wide) <= 360
    page.get_by_text("Filter", exact=True).click()
    page.get_by_text("Expression", exact=True).click()
    assert page.evaluate(wide) <= 360
    for hash_, ready in (
        ("#/search?id=m-3", ".grid a"),
        ("#/d/" + quote(f"m-7{EVIL}", safe=""), ".facts dd"),
        ("#/d/blob%202%2F5", ".strip li"),
        ("#/index", ".bars li"),
        ("#/search", ".choose"),
    ):
        page.goto(f"{service}/{hash_}")
        page.locator(ready).first.wait_for()
        assert page.evaluate(wide) <= 360, hash_


def test_an_invalid_link_is_an_error(open_page: Open, service: str) -> None:
    for fragment in ("#/nothing", "#/d/%E0%A4%A"):
        page = open_page(f"{service}/{fragment}")
        expect(page.get_by_role("alert")).to_have_text("This link leads nowhere. ")
