"""A browser, a real service, and an index of drawn pictures with unusual names.

The pictures go through the ``tiny`` model, so uploads are embedded for real. A page that writes an
error to the console fails the test that opened it, unless the test expects that error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from index.build.version import build_index
from index.search.snapshot import Snapshot
from pipelines.engines.embed import Embedded, Embedder
from pipelines.model_info import ModelRequest
from pipelines.models.registry import examine
from tests.helpers.api.world import draw, serving
from tests.helpers.pictures import drawn
from tests.helpers.runs import write_run
from tracks.association.options import LinkOptions
from tracks.link import link_run

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WAIT_MS = 10_000  # for conditions; no test waits for a fixed time

ODD_ID = "trap 1/é?#%26+%/x"
EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>alert(1)</script>'\"&amp;"
QUOTED = "O'Brien's \"moth\" & co"
FRAMES, HIDDEN = 8, (3, 4)  # the third blob is missing in these frames
MEADOW = 40


@dataclass
class World:
    """What is in the index, in its order, and the same searches in NumPy."""

    index: Path
    ids: list[str]
    labels: list[str]
    sequences: list[str]
    cameras: list[str | None]  # an own column
    scores: list[float]
    unit: np.ndarray  # embeddings of length 1
    embedder: Embedder
    picture: Path  # one that is not in the index

    def nearest(
        self, query: np.ndarray, k: int, *, excluded: str = "", sequence: str | None = None
    ) -> dict[str, float]:
        """Brute force: ids and cosines of the k nearest, nearest first."""
        cosine = self.unit @ (query / np.linalg.norm(query))
        order = [
            row
            for row in np.argsort(-cosine, kind="stable")
            if self.ids[row] != excluded and sequence in (None, self.sequences[row])
        ]
        return {self.ids[row]: float(cosine[row]) for row in order[:k]}

    def near(self, detection_id: str, k: int, *, sequence: str | None = None) -> dict[str, float]:
        query = self.unit[self.ids.index(detection_id)]
        return self.nearest(query, k, excluded=detection_id, sequence=sequence)

    def upload(self) -> Embedded:
        return self.embedder.embed_bytes(self.picture.read_bytes())


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    base = tmp_path_factory.mktemp("page")
    images = base / "images"
    model = examine(ModelRequest(spec="tiny"))
    embedder = Embedder.load(model)
    plan: dict[str, list[object]] = {name: [] for name in ("image", "x1", "y1", "x2", "y2")}
    sequences, ids, labels = [], [], []
    cameras: list[str | None] = []

    def add(
        name: str, box: tuple[float | None, ...], sequence: str, detection_id: str, label: str
    ) -> None:
        for column, value in zip(plan, (name, *box), strict=True):
            plan[column].append(value)
        sequences.append(sequence)
        ids.append(detection_id)
        labels.append(label)
        cameras.append(None if sequence == "trap" else ("north", "south's", "east")[len(ids) % 3])

    (images / "trap").mkdir(parents=True)
    for frame in range(FRAMES):
        name = f"trap/202206200029{frame:02d}.jpg"
        for blob, box in enumerate(draw(images / name, frame)):
            if blob == 2 and frame in HIDDEN:
                continue
            detection_id = ODD_ID if (blob, frame) == (1, 0) else f"blob {blob}/{frame}"
            add(name, box, "trap", detection_id, f"class {blob}")
    (images / "meadow").mkdir()
    for number in range(MEADOW):
        name = f"meadow/20230701{number // 60 + 10}{number % 60:02d}00.jpg"
        drawn(number, width=160, height=120).save(images / name, quality=92)
        evil = number == 7
        add(
            name,
            (None,) * 4,
            EVIL if evil else "meadow",
            f"m-{number}{EVIL if evil else ''}",
            EVIL if evil else (QUOTED if number % 4 else "fly"),
        )
    vectors = np.stack(
        [
            embedder.embed_bytes((images / name).read_bytes(), box=box).embedding
            for name, *box in zip(*plan.values(), strict=True)
        ]
    )
    run = write_run(
        base / "run",
        {**plan, "detection_id": ids, "sequence": sequences, "Camera": cameras},
        vectors,
        root=images,
        facts=model,
        labels=labels,
    )
    link_run(
        run.path,
        options=LinkOptions(feature_weight=1, iou_weight=1, area_weight=1, distance_weight=1),
    )
    build_index([run.path], base / "index")
    picture = base / "another.png"
    drawn(1234, width=200, height=150).save(picture)
    snapshot = Snapshot.open(base / "index")
    columns = snapshot.columns(snapshot.matching(None))
    order = [ids.index(name) for name in columns["detection_id"]]  # a build may reorder rows
    return World(
        index=base / "index",
        ids=columns["detection_id"],
        labels=[labels[row] for row in order],
        sequences=[sequences[row] for row in order],
        cameras=[cameras[row] for row in order],
        scores=columns["score"],
        unit=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[order],
        embedder=embedder,
        picture=picture,
    )


@pytest.fixture(scope="session")
def service(world: World) -> Iterator[str]:
    """The address of a running service."""
    with serving(world.index) as client:
        yield str(client.base_url)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    assert executable, "no Chromium: run 'make test-browser', or name one in CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Console:
    """Errors and warnings of the pages of a test; the test may expect some of them."""

    messages: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def listen(self, page: Page) -> None:
        page.on("console", lambda line: self.record(line.type, line.text))
        page.on("pageerror", lambda error: self.record("error", str(error)))

    def record(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.messages.append(text)


@pytest.fixture
def console() -> Iterator[Console]:
    console = Console()
    yield console
    assert not [
        message
        for message in console.messages
        if not any(part in message for part in console.expected)
    ]


@pytest.fixture
def open_page(browser: Browser, console: Console) -> Iterator[Callable[..., Page]]:
    """Opens an address in a new context: ``open_page(url, width=360)``."""
    contexts = []

    def open_url(url: str, *, width: int = 1280, height: int = 900) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        console.listen(page)
        page.goto(url)
        return page

    yield open_url
    for context in contexts:
        context.close()
