"""The page in a real Chromium against the real service, compared with NumPy brute force."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import Page, expect
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_app
from api.config import ServeConfig
from tests.browser.conftest import EVIL, MEADOW, ODD_ID, QUOTED, WAIT_MS, Console, World
from tests.helpers.api.world import serving

expect.set_options(timeout=WAIT_MS)

Open = Callable[..., Page]


def cards(page: Page) -> list[str]:
    return [
        str(name)
        for name in page.locator(".grid a").evaluate_all("all => all.map(a => a.dataset.id)")
    ]


def expect_status(page: Page, text: str) -> None:
    expect(page.get_by_role("status")).to_have_text(text)


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


def test_browse_pages_and_back(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    total = len(world.ids)
    expect_status(page, f"{total} detections, 1 to 48 shown")
    assert cards(page) == world.ids[:48]
    expect_loaded(page, ".grid img")
    page.get_by_role("link", name="Next").click()
    expect_status(page, f"{total} detections, 49 to {total} shown")
    assert cards(page) == world.ids[48:]
    page.go_back()
    expect_status(page, f"{total} detections, 1 to 48 shown")
    assert cards(page) == world.ids[:48]


def test_filters_become_one_condition(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    expected = [
        name for name, label in zip(world.ids, world.labels, strict=True) if label == QUOTED
    ]
    page.get_by_label("Class", exact=True).select_option(QUOTED)
    expect_status(page, f"{len(expected)} detections, 1 to {len(expected)} shown")
    assert cards(page) == expected
    assert hash_of(page)[1] == {"label": [QUOTED]}
    expect(page.locator(".condition")).to_have_text(
        f"label = '{QUOTED.replace(chr(39), chr(39) * 2)}'"
    )
    page.get_by_label("Minimal class score").fill("0.6")
    sure = [name for name in expected if world.scores[world.ids.index(name)] >= 0.6]
    expect_status(page, f"{len(sure)} detections, 1 to {len(sure)} shown")
    assert cards(page) == sure
    page.get_by_label("From").fill("2023-07-01T10:10:00")
    page.get_by_label("Until").fill("2023-07-01T10:20:00")
    timely = [name for name in sure if 10 <= int(name.split("-")[1].split("<")[0]) <= 20]
    expect_status(page, f"{len(timely)} detections, 1 to {len(timely)} shown")
    assert cards(page) == timely
    page.reload()
    expect_status(page, f"{len(timely)} detections, 1 to {len(timely)} shown")
    expect(page.get_by_label("Class", exact=True)).to_have_value(QUOTED)
    page.get_by_role("button", name="Clear").click()
    expect_status(page, f"{len(world.ids)} detections, 1 to 48 shown")
    page.go_back()
    expect_status(page, f"{len(timely)} detections, 1 to {len(timely)} shown")


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
    expect_status(page, f"{len(expected)} detections, 1 to {len(expected)} shown")
    assert cards(page) == expected
    expression.fill("colour = 'red'")
    expression.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("there is no column 'colour'; there are run,")
    assert cards(page) == []
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
    assert cards(page) == list(expected)
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
    assert cards(page) == list(expected)[:12]


def test_neighbours_may_be_filtered(open_page: Open, service: str, world: World) -> None:
    page = open_page(service + "/#/search?id=m-3")
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    page.get_by_label("Sequence").select_option("trap")
    trap = world.near("m-3", 24, sequence="trap")
    expect_status(page, f"{len(trap)} neighbours, nearest first, by cosine similarity")
    assert cards(page) == list(trap)
    page.goto(service + "/#/search")
    page.set_input_files("input[type=file]", world.picture)
    check_upload(page, world)
    page.get_by_label("Sequence").select_option("trap")
    trap = world.nearest(world.upload().embedding, 24, sequence="trap")
    expect_status(page, f"{len(trap)} neighbours, nearest first, by cosine similarity")
    assert cards(page) == list(trap)


def check_upload(page: Page, world: World) -> None:
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    embedded = world.upload()
    assert cards(page) == list(world.nearest(embedded.embedding, 24))
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


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_upload_by_dropping_or_pasting(
    open_page: Open, service: str, world: World, way: str
) -> None:
    page = open_page(service)
    expect_status(page, f"{len(world.ids)} detections, 1 to 48 shown")
    page.evaluate(
        """([way, data]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "night.png", { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            const event = way === "drop"
                ? new DragEvent("drop", { ...options, dataTransfer: carried })
                : new ClipboardEvent("paste", { ...options, clipboardData: carried });
            document.querySelector("h1").dispatchEvent(event);
        }""",
        [way, base64.b64encode(world.picture.read_bytes()).decode()],
    )
    check_upload(page, world)


def test_an_invalid_upload_is_an_error(open_page: Open, service: str, console: Console) -> None:
    console.expected = ("status of 422",)
    page = open_page(service + "/#/search")
    page.set_input_files(
        "input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(page.locator("main [role=alert]", has_text="no known format")).to_be_visible()


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
    expect_status(page, "24 neighbours, nearest first, by cosine similarity")
    assert cards(page) == list(world.near(f"m-7{EVIL}", 24))
    page.get_by_role("navigation").get_by_role("link", name="Index").click()
    expect(page.locator(".bars").nth(1)).to_contain_text(EVIL)
    assert page.evaluate("document.querySelectorAll('img[src=x], main script').length") == 0
    assert "pwned" not in page.title()


class Gate:
    """ASGI middleware that records requests and answers some of them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.key: bytes | None = None
        self.answers: list[tuple[str, int, str, dict[str, str]]] = []  # path part, once each
        self.requests: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        self.requests.append(path)
        given = dict(scope["headers"]).get(b"x-api-key")
        if self.key and path.startswith("/v1") and given != self.key:
            await send_error(
                send, 401, "unauthorized", "give a key of this service in X-API-Key", {}
            )
            return
        for answer in self.answers:
            part, status, message, headers = answer
            if part in path:
                self.answers.remove(answer)
                await send_error(send, status, "busy", message, headers)
                return
        await self.app(scope, receive, send)


async def send_error(
    send: Send, status: int, code: str, message: str, headers: dict[str, str]
) -> None:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def test_a_key_is_requested_and_kept_in_the_tab(
    open_page: Open, world: World, console: Console
) -> None:
    console.expected = ("status of 401",)
    gate = Gate(create_app(ServeConfig(index=world.index)))
    with serving(gate) as client:  # type: ignore[arg-type]
        gate.key = b"s3cret"
        page = open_page(str(client.base_url))
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("give a key of this service")
        dialog.get_by_role("button", name="Cancel").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("give a key of this service")
        alert.get_by_role("button", name="Give a key").click()
        dialog.get_by_label("Key", exact=True).fill("wrong")
        dialog.get_by_role("button", name="Use").click()
        expect(dialog).to_be_visible()  # requested again
        dialog.get_by_label("Key", exact=True).fill("s3cret")
        page.keyboard.press("Enter")
        expect_status(page, f"{len(world.ids)} detections, 1 to 48 shown")
        expect(dialog).to_be_hidden()
        expect_loaded(page, ".grid img")  # pictures need the key as well
        expect(page.get_by_role("button", name="API key set")).to_be_visible()
        assert page.evaluate(
            "[Object.values(sessionStorage), localStorage.length, document.cookie]"
        ) == [["s3cret"], 0, ""]
        page.reload()
        expect_status(page, f"{len(world.ids)} detections, 1 to 48 shown")
        expect(dialog).to_be_hidden()
        page.close()


def test_errors_are_shown_and_retried(open_page: Open, world: World, console: Console) -> None:
    console.expected = ("status of 429", "status of 500", "status of 503", "ERR_FAILED")
    gate = Gate(create_app(ServeConfig(index=world.index)))
    all_of_them = f"{len(world.ids)} detections, 1 to 48 shown"
    with serving(gate) as client:  # type: ignore[arg-type]
        gate.answers = [
            ("/v1/detections", 429, "the queue is full; ask again in 1 s", {"retry-after": "1"})
        ]
        page = open_page(str(client.base_url))
        expect(page.get_by_role("alert")).to_contain_text("the queue is full")
        expect(page.get_by_role("alert")).to_contain_text("trying again in 1 s")
        expect_status(page, all_of_them)  # by itself
        expect(page.get_by_role("alert")).to_have_count(0)
        # A picture that is refused once is fetched again.
        refused = f"/v1/detections/{world.ids[48]}/image"
        gate.answers = [(refused, 429, "the queue is full", {"retry-after": "1"})]
        page.get_by_role("link", name="Next").click()
        expect_status(page, f"{len(world.ids)} detections, 49 to {len(world.ids)} shown")
        expect_loaded(page, ".grid img")
        assert (gate.answers, gate.requests.count(refused)) == ([], 2)
        gate.answers = [("/v1/index/facets", 500, "the server failed to answer", {})]
        page.get_by_role("navigation", name="Views").get_by_role("link", name="Index").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("the server failed to answer")
        alert.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("heading", name="Served")).to_be_visible()
        page.route("**/v1/**", lambda route: route.abort())
        page.get_by_role("link", name="Browse").click()
        expect(page.get_by_role("alert")).to_contain_text("the server cannot be reached")
        page.unroute("**/v1/**")
        page.get_by_role("button", name="Try again").click()
        expect_status(page, all_of_them)
        page.goto(str(client.base_url) + detection_url("nobody"))
        console.expected += ("status of 404",)
        expect(page.get_by_role("alert")).to_contain_text("no detection 'nobody' in snapshot v0001")
        page.close()


def test_a_missing_image_is_shown_as_such(
    open_page: Open, service: str, world: World, console: Console
) -> None:
    console.expected = ("status of 404",)
    file = next(world.index.parent.glob("images/meadow/*3900.jpg"))
    away = file.with_suffix(".away")
    file.rename(away)
    try:
        page = open_page(service + detection_url(f"m-{MEADOW - 1}"))
        expect(page.locator(".detection .why")).to_contain_text(
            "is no longer where its run read it"
        )
    finally:
        away.rename(file)


def test_only_a_few_pictures_at_once_and_only_near_the_window(
    open_page: Open, world: World
) -> None:
    gate = Gate(create_app(ServeConfig(index=world.index)))
    with serving(gate) as client:  # type: ignore[arg-type]
        page = open_page(str(client.base_url), width=360, height=400)
        expect_status(page, f"{len(world.ids)} detections, 1 to 48 shown")
        expect_loaded(page, ".grid img")
        fetched = [path for path in gate.requests if path.endswith("/image")]
        assert 4 <= len(fetched) < 30
        before = len(gate.requests)
        page.locator(".grid a").last.scroll_into_view_if_needed()
        expect_loaded(page, ".grid img")
        assert any(path.endswith("/image") for path in gate.requests[before:])
        page.close()


def test_keyboard_alone(open_page: Open, service: str, world: World) -> None:
    page = open_page(service)
    expect_status(page, f"{len(world.ids)} detections, 1 to 48 shown")
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Skip to content")
    page.keyboard.press("/")
    expect(focused).to_have_attribute("name", "label")
    page.keyboard.type("fly")  # a select goes to what is typed
    flies = [name for name, label in zip(world.ids, world.labels, strict=True) if label == "fly"]
    expect_status(page, f"{len(flies)} detections, 1 to {len(flies)} shown")
    expect(focused).to_have_attribute("name", "label")  # nothing took it away
    for _ in range(30):  # a field for a time has eight stops
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "card":
            break
    assert focused.get_attribute("data-id") == flies[0]
    outline = focused.evaluate("one => getComputedStyle(one).outlineStyle")
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
    expect_status(page, f"{len(flies)} detections, 1 to {len(flies)} shown")
    expect(focused).to_have_attribute("data-id", flies[in_row])  # where it was


def test_closing_a_detection_that_was_opened_by_its_link(open_page: Open, service: str) -> None:
    page = open_page(service + detection_url("m-5"))
    expect(page.get_by_role("heading", level=1)).not_to_have_text("Detection")
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", level=1)).to_have_text("Detections")


def test_a_phone_needs_no_scrolling_sideways(open_page: Open, service: str, world: World) -> None:
    page = open_page(service, width=360, height=740)
    wide = "document.documentElement.scrollWidth"
    expect_status(page, f"{len(world.ids)} detections, 1 to 48 shown")
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
