"""Own columns, orders, groups, limits and examples on the page, compared with NumPy."""

from __future__ import annotations

import json

import numpy as np
from playwright.sync_api import expect

from tests.browser.conftest import ODD_ID, World
from tests.browser.page import (
    Open,
    cards,
    detection_url,
    expect_cards,
    expect_detections,
    expect_status,
    hash_of,
)


def test_an_own_column_filters(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    expect_detections(page, world.ids)
    page.get_by_label("Column", exact=True).select_option("Camera")
    page.get_by_label("Value", exact=True).select_option("south's")
    rows = zip(world.ids, world.cameras, strict=True)
    expected = [name for name, camera in rows if camera == "south's"]
    expect_detections(page, expected)
    expect(page.locator(".condition")).to_have_text("\"Camera\" = 'south''s'")
    page.reload()
    expect_detections(page, expected)
    expect(page.get_by_label("Value", exact=True)).to_have_value("south's")
    page.get_by_label("Column", exact=True).select_option("")
    expect_detections(page, world.ids)


def test_a_detection_shows_its_own_columns(open_page: Open, service: str) -> None:
    page = open_page(service + detection_url("m-3"))
    row = page.locator(".detection dl > div", has=page.get_by_text("Camera", exact=True))
    expect(row.locator("dd")).to_have_text(
        page.evaluate("fetch('v1/detections/m-3').then((answer) => answer.json())")["payload"][
            "Camera"
        ]
    )


def test_detections_in_the_order_of_a_column(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    expect_detections(page, world.ids)
    page.get_by_label("Order by").select_option("Camera")
    rows = range(len(world.ids))
    named = [row for row in rows if world.cameras[row] is not None]
    rest = [row for row in rows if world.cameras[row] is None]
    up = sorted(named, key=lambda row: str(world.cameras[row])) + rest
    page.wait_for_url("**order=Camera")
    expect_detections(page, [world.ids[row] for row in up])
    page.get_by_label("descending").check()
    down = sorted(named, key=lambda row: str(world.cameras[row]), reverse=True) + rest
    page.wait_for_url("**desc=1")
    expect_detections(page, [world.ids[row] for row in down])
    page.get_by_role("link", name="Next").click()
    expect_detections(page, [world.ids[row] for row in down], offset=48)


def test_one_neighbour_of_each_group(open_page: Open, service: str, world: World) -> None:
    page = open_page(service + "/#/search?id=m-3")
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    page.get_by_label("One of each").select_option("Camera")
    order = list(world.near("m-3", 1000))
    groups: dict[str, str] = {}
    for name in order:
        groups.setdefault(world.cameras[world.ids.index(name)] or name, name)
    expected = list(groups.values())[:24]
    expect_status(
        page, f"{len(expected)} neighbours, one of each Camera, nearest first, by cosine similarity"
    )
    expect_cards(page, expected)
    page.get_by_label("One of each").select_option("track")
    expect(page.get_by_role("status")).to_contain_text("one of each track")


def test_a_limit_of_the_score(open_page: Open, service: str, world: World) -> None:
    page = open_page(service + "/#/search?id=m-3")
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    near = world.near("m-3", 24)
    limit = round(list(near.values())[4] - 1e-4, 5)
    page.get_by_label("Score limit").fill(str(limit))
    page.get_by_label("Score limit").press("Tab")
    expected = [name for name, score in near.items() if score >= limit]
    expect_status(page, f"{len(expected)} neighbours, nearest first, by cosine similarity")
    expect_cards(page, expected)


def test_more_like_this_and_less_like_that(open_page: Open, service: str, world: World) -> None:
    page = open_page(service + "/#/search?id=m-3")
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")

    def expected(more: list[str], less: list[str]) -> list[str]:
        def mean(names: list[str]) -> np.ndarray:
            return np.mean([world.unit[world.ids.index(name)] for name in names], axis=0)

        query = mean(["m-3", *more])
        if less:
            query = 2 * query - mean(less)
        left_out = {"m-3", *more, *less}
        return [name for name in world.nearest(query, 1000) if name not in left_out][:24]

    first = cards(page)
    page.locator(".grid li").nth(2).get_by_role("button", name="More like this").click()
    more = [first[2]]
    page.wait_for_url("**more=*")
    expect(page.locator(".grid a").first).to_have_attribute("data-id", expected(more, [])[0])
    expect(page.locator(f'.grid a[data-id="{first[2]}"]')).to_have_count(0)
    expect_cards(page, expected(more, []))
    page.locator(".grid a").nth(20).focus()
    less = [cards(page)[20]]
    page.keyboard.press("-")
    page.wait_for_url("**less=*")
    expect(page.locator(f'.grid a[data-id="{less[0]}"]')).to_have_count(0)
    expect(page.locator(".grid[aria-busy]")).to_have_count(0)
    expect_cards(page, expected(more, less))
    assert json.loads(hash_of(page)[1]["less"][0]) == less
    page.reload()
    expect(page.locator(".chosen button")).to_have_count(2)
    page.get_by_role("button", name=f"Take away {more[0]}").click()
    expect(page.locator(".chosen button")).to_have_count(1)
    expect(page.locator(f'.grid a[data-id="{more[0]}"]')).to_have_count(1)
    expect_cards(page, expected([], less))


def test_examples_with_unusual_ids(open_page: Open, service: str, world: World) -> None:
    page = open_page(service + "/#/search?id=m-3")
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    page.evaluate(
        "ids => { location.hash = `#/search?id=m-3&more=${encodeURIComponent(JSON.stringify(ids))}` }",
        [ODD_ID],
    )
    expect(page.locator(".chosen button")).to_have_count(1)
    expect(page.locator(f'.grid a[data-id="{ODD_ID}"]')).to_have_count(0)
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    page.evaluate("location.hash = '#/search?id=m-3&more=[1,'")  # a link that was cut
    expect(page.locator(".chosen button")).to_have_count(0)
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    expect_cards(page, list(world.near("m-3", 24)))
