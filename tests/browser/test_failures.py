"""Keys, errors of the service and missing pictures, as the page shows them."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import MEADOW, Console, World
from tests.browser.page import (
    Open,
    detection_url,
    expect_detections,
    expect_loaded,
)
from tests.helpers.api.world import serving


def fail_once(page: Page, url: str, status: int, message: str, **headers: str) -> None:
    """Answer the next request of a URL with an error."""
    body = json.dumps({"error": {"code": "busy", "message": message}})
    page.route(url, lambda route: route.fulfill(status=status, body=body, headers=headers), times=1)


def test_a_key_is_requested_and_kept_in_the_tab(
    open_page: Open, world: World, console: Console, tmp_path: Path
) -> None:
    console.expected = ("status of 401",)
    keys = tmp_path / "keys"
    keys.write_text("s3cret\n")
    with serving(world.index, api_key_file=keys) as client:
        page = open_page(str(client.base_url))
        dialog, alert = page.get_by_role("dialog"), page.get_by_role("alert")
        expect(dialog).to_contain_text("X-API-Key")
        dialog.get_by_role("button", name="Cancel").click()
        expect(alert).to_contain_text("X-API-Key")
        alert.get_by_role("button", name="Give a key").click()
        dialog.get_by_label("Key", exact=True).fill("wrong")
        dialog.get_by_role("button", name="Use").click()
        expect(dialog).to_be_visible()  # requested again
        dialog.get_by_label("Key", exact=True).fill("s3cret")
        page.keyboard.press("Enter")
        expect_detections(page, world.ids)
        expect(dialog).to_be_hidden()
        expect_loaded(page, ".grid img")  # pictures need the key as well
        expect(page.get_by_role("button", name="API key set")).to_be_visible()
        stored = "[Object.values(sessionStorage), localStorage.length, document.cookie]"
        assert page.evaluate(stored) == [["s3cret"], 0, ""]
        page.reload()
        expect_detections(page, world.ids)
        expect(dialog).to_be_hidden()
        page.close()


def test_errors_are_shown_and_retried(
    open_page: Open, service: str, world: World, console: Console
) -> None:
    console.expected = ("status of 404", "status of 429", "status of 500", "ERR_FAILED")
    page = open_page("about:blank")
    fail_once(page, "**/v1/detections?*", 429, "the queue is full", **{"retry-after": "1"})
    page.goto(service)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("the queue is full")
    expect(alert).to_contain_text("trying again in 1 s")
    expect_detections(page, world.ids)  # by itself
    expect(alert).to_have_count(0)
    # A picture that is refused once is fetched again.
    picture = f"/v1/detections/{world.ids[48]}/image"
    fail_once(page, f"**{picture}", 429, "the queue is full", **{"retry-after": "1"})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(urlsplit(request.url).path))
    page.get_by_role("link", name="Next").click()
    expect_detections(page, world.ids, offset=48)
    expect_loaded(page, ".grid img")
    assert requests.count(picture) == 2
    fail_once(page, "**/v1/index/facets?*", 500, "the server failed to answer")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Index").click()
    expect(alert).to_contain_text("the server failed to answer")
    alert.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Served")).to_be_visible()
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_role("link", name="Browse").click()
    expect(alert).to_contain_text("the server cannot be reached")
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    expect_detections(page, world.ids)
    page.goto(service + detection_url("nobody"))
    expect(alert).to_contain_text("no detection 'nobody' in snapshot v0001")


def test_a_missing_image_is_shown_as_such(
    open_page: Open, service: str, world: World, console: Console
) -> None:
    console.expected = ("status of 404",)
    file = next(world.index.parent.glob("images/meadow/*3900.jpg"))
    away = file.with_suffix(".away")
    file.rename(away)
    try:
        page = open_page(service + detection_url(f"m-{MEADOW - 1}"))
        expect(page.locator(".detection .why")).to_contain_text("is not where its run read it")
    finally:
        away.rename(file)


def test_only_a_few_pictures_at_once_and_only_near_the_window(
    open_page: Open, service: str, world: World
) -> None:
    page = open_page("about:blank", width=360, height=400)
    pictures: list[str] = []

    def record(request: Request) -> None:
        if request.url.endswith("/image"):
            pictures.append(request.url)

    page.on("request", record)
    page.goto(service)
    expect_detections(page, world.ids)
    expect_loaded(page, ".grid img")
    before = len(pictures)
    assert 4 <= before < 30
    page.locator(".grid a").last.scroll_into_view_if_needed()
    expect_loaded(page, ".grid img")
    assert len(pictures) > before


def test_an_invalid_upload_is_an_error(open_page: Open, service: str, console: Console) -> None:
    console.expected = ("status of 422",)
    page = open_page(service + "/#/search")
    page.set_input_files(
        "input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(page.locator("main [role=alert]", has_text="no known format")).to_be_visible()
