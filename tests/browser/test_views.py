"""The views of the page in a real Chromium against the real service, compared with NumPy."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import EVIL, ODD_ID, QUOTED, Console, World
from tests.browser.page import (
    Open,
    detection_url,
    expect_cards,
    expect_detections,
    expect_loaded,
    expect_neighbours,
    expect_status,
    hash_of,
)


def test_browse_pages_and_back(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    expect_detections(page, world.ids)
    expect_loaded(page, ".grid img")
    page.get_by_role("link", name="Next").click()
    expect_detections(page, world.ids, offset=48)
    page.go_back()
    expect_detections(page, world.ids)


def test_filters_become_one_condition(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    expected = [
        name for name, label in zip(world.ids, world.labels, strict=True) if label == QUOTED
    ]
    page.get_by_label("Class", exact=True).select_option(QUOTED)
    expect_detections(page, expected)
    assert hash_of(page)[1] == {"label": [QUOTED]}
    expect(page.locator(".condition")).to_have_text(
        f"label = '{QUOTED.replace(chr(39), chr(39) * 2)}'"
    )
    page.get_by_label("Minimal class score").fill("0.6")
    sure = [name for name in expected if world.scores[world.ids.index(name)] >= 0.6]
    expect_detections(page, sure)
    page.get_by_label("From").fill("2023-07-01T10:10:00")
    page.get_by_label("Until").fill("2023-07-01T10:20:00")
    timely = [name for name in sure if 10 <= int(name.split("-")[1].split("<")[0]) <= 20]
    expect_detections(page, timely)
    page.reload()
    expect_detections(page, timely)
    expect(page.get_by_label("Class", exact=True)).to_have_value(QUOTED)
    page.get_by_role("button", name="Clear").click()
    expect_detections(page, world.ids)
    page.go_back()
    expect_detections(page, timely)


def test_expressions_for_experts(
    open_page: Open, service: str, world: World, console: Console
) -> None:
    console.expected = ("status of 422",)
    page = open_page(service + "/#/?sequence=trap")
    page.get_by_text("Expression", exact=True).click()
    expression = page.get_by_label("Expression, as behind WHERE")
    expression.fill("frame = 2 OR frame = 5 -- late ones")
    expression.press("Enter")
    expected = [
        name for name in world.ids if name in {f"blob {b}/{f}" for b in range(3) for f in (2, 5)}
    ]
    expect_detections(page, expected)
    expression.fill("colour = 'red'")
    expression.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("there is no column 'colour'; there are run,")
    expect_cards(page, [])
    expect(page.get_by_role("alert").get_by_role("button")).to_have_count(
        0
    )  # trying again would not help
    expression.fill("frame = 99")
    expression.press("Enter")
    expect_status(page, "0 detections fit this filter")


@pytest.mark.parametrize("query", [ODD_ID, "m-3"])
def test_neighbours_equal_brute_force(
    open_page: Open, service: str, world: World, query: str
) -> None:
    page = open_page(service)
    if world.ids.index(query) >= 48:
        page.get_by_role("link", name="Next").click()
        page.wait_for_url("**page=2")
    page.locator(f'.grid a[data-id="{query}"]').click()
    assert hash_of(page)[0] == f"/d/{quote(query, safe='')}"
    page.get_by_role("link", name="Neighbours of this").click()
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    expected = world.near(query, 24)
    expect_cards(page, list(expected))
    assert page.locator(".rank").all_text_contents() == [f"Rank {rank}" for rank in range(1, 25)]
    scores = [text.split()[-1] for text in page.locator(".grid .score").all_inner_texts()]
    assert [float(score) for score in scores] == pytest.approx(list(expected.values()), abs=6e-4)
    expect(page.get_by_label("Query", exact=True).locator("code")).to_have_text(query)
    expect_loaded(page, ".query img, .grid img")
    page.get_by_label("Show").select_option("12")
    expect_status(page, "12 neighbours, nearest first, by cosine similarity")
    page.get_by_label("exact").check()
    page.wait_for_url("**exact=1*")
    expect_status(page, "12 neighbours, nearest first, by cosine similarity")
    expect_cards(page, list(expected)[:12])


def test_neighbours_may_be_filtered(open_page: Open, service: str, world: World) -> None:
    page = open_page(service + "/#/search?id=m-3")
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    page.get_by_label("Sequence").select_option("trap")
    trap = world.near("m-3", 24, sequence="trap")
    expect_neighbours(page, trap)
    page.goto(service + "/#/search")
    page.set_input_files("input[type=file]", world.picture)
    check_upload(page, world)
    page.get_by_label("Sequence").select_option("trap")
    trap = world.nearest(world.upload().embedding, 24, sequence="trap")
    expect_neighbours(page, trap)


def check_upload(page: Page, world: World) -> None:
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    embedded = world.upload()
    expect_cards(page, list(world.nearest(embedded.embedding, 24)))
    labels = page.locator(".classes li .label").all_inner_texts()
    assert labels == [top["label"] or f"class {top['label_index']}" for top in embedded.topk]
    scores = page.locator(".classes li .score").all_inner_texts()
    assert [float(score) for score in scores] == pytest.approx(
        [top["score"] for top in embedded.topk], abs=6e-4
    )
    expect_loaded(page, ".query img, .grid img")


def test_upload_by_choosing(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    page.get_by_role("link", name="Search by image").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a picture").click()
    chooser.value.set_files(world.picture)
    check_upload(page, world)
    page.locator(".grid a >> nth=0").click()
    page.wait_for_url("**/#/d/*")
    page.go_back()  # the picture is still this tab's
    check_upload(page, world)
    page.reload()
    expect(page.get_by_text("choose it again")).to_be_visible()


@pytest.mark.parametrize("event_type", ["drop", "paste"])
def test_upload_by_dropping_or_pasting(
    open_page: Open, service: str, world: World, event_type: str
) -> None:
    page = open_page(service)
    expect_detections(page, world.ids)
    page.evaluate(
        """([type, data]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "night.png", { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            const event = type === "drop"
                ? new DragEvent("drop", { ...options, dataTransfer: carried })
                : new ClipboardEvent("paste", { ...options, clipboardData: carried });
            document.querySelector("h1").dispatchEvent(event);
        }""",
        [event_type, base64.b64encode(world.picture.read_bytes()).decode()],
    )
    check_upload(page, world)


def test_track_is_a_strip_in_time(open_page: Open, service: str) -> None:
    page = open_page(service + detection_url("blob 2/5"))
    strip = page.get_by_label("Detections of the track in order")
    expect(strip.locator("li")).to_have_count(6)
    frames = [0, 1, 2, 5, 6, 7]
    assert strip.locator(".label").all_inner_texts() == [f"Frame {frame}" for frame in frames]
    assert strip.locator(".gap").all_inner_texts()[0].endswith("gap of 2 frames")
    expect(strip.locator(".gap")).to_have_count(1)
    track = page.evaluate(
        "fetch('v1/detections/blob%202%2F5/track').then((answer) => answer.json())"
    )
    costs = strip.locator(".cost").all_inner_texts()
    assert costs == [f"{step['cost']:.3f}" for step in track["detections"][1:]]
    expect(strip.locator("[aria-current=true] .label")).to_have_text("Frame 5")
    expect_loaded(page, ".strip img")
    strip.get_by_text("Frame 6").click()
    expect(strip.locator("[aria-current=true] .label")).to_have_text("Frame 6")
    assert hash_of(page)[0] == "/d/blob%202%2F6"


def test_a_detection_shows_its_fields(open_page: Open, service: str) -> None:
    page = open_page(service + detection_url(ODD_ID))
    expect(page.get_by_role("heading", level=1)).to_have_text("class 1")
    facts = dict(
        zip(
            page.locator(".detection dt").all_inner_texts(),
            page.locator(".detection dd").all_inner_texts(),
            strict=True,
        )
    )
    assert facts == {
        "Class": "class 1",
        "Class score": "0.900",
        "Sequence": "trap",
        "Time": "2022-06-20 00:29:00",
        "Frame": "0",
        "Image": "20220620002900.jpg",
        "Box": "85, 60 to 125, 90 (40 \N{MULTIPLICATION SIGN} 30 px)",
        "Id": ODD_ID,
    }
    expect_loaded(page, ".detection img")
    ratio = page.locator(".detection img").evaluate(
        "img => [getComputedStyle(img).objectFit, img.naturalWidth / img.naturalHeight]"
    )
    assert ratio == ["contain", pytest.approx(40 / 30, abs=0.05)]
    page.get_by_role("link", name="trap").click()
    page.wait_for_url("**sequence=trap")
    expect_status(page, "22 detections, 1 to 22 shown")


def test_index_facts(open_page: Open, service: str, world: World) -> None:
    page = open_page(service + "/#/index")
    served = page.evaluate("fetch('v1/index').then((answer) => answer.json())")
    columns = page.locator(".columns")
    for text in (
        *("cosine", "tiny", served["version"], served["factory"], str(len(world.ids))),
        f"{served['recall']['measured']:.3f} measured, target 0.95",
        served["fingerprint"][:16],
    ):
        expect(columns).to_contain_text(text)
    rows = columns.locator("section", has=page.get_by_role("heading", name="Classes")).locator("li")
    counts = {label: world.labels.count(label) for label in set(world.labels)}
    shown = dict(
        zip(
            rows.locator(".label").all_inner_texts(),
            map(int, rows.locator(".score").all_inner_texts()),
            strict=True,
        )
    )
    assert shown == counts
    rows.get_by_text("fly", exact=True).click()
    expect_status(page, f"{counts['fly']} detections, 1 to {counts['fly']} shown")
    expect(page.locator("#served")).to_have_text(f"v0001 · {len(world.ids)} detections · tiny")


def test_text_of_the_index_stays_text(open_page: Open, service: str, world: World) -> None:
    page = open_page(service + f"/#/?label={quote(EVIL)}")
    expect_status(page, "1 detection, 1 to 1 shown")
    expect(page.locator(".caption .label")).to_have_text(EVIL)
    page.locator(".grid a").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(EVIL)
    expect(page.locator("dd code")).to_have_text(f"m-7{EVIL}")
    page.get_by_role("link", name="Neighbours of this").click()
    expect_neighbours(page, world.near(f"m-7{EVIL}", 24))
    page.get_by_role("navigation").get_by_role("link", name="Index").click()
    expect(page.locator(".bars").nth(1)).to_contain_text(EVIL)
    assert page.evaluate("document.querySelectorAll('img[src=x], main script').length") == 0
    assert "pwned" not in page.title()
