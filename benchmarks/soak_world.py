"""Who uses the server of ``soak.py``, and what it must answer: searches, a camera, a writer."""

from __future__ import annotations

import queue
import random
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks import runner
from index.storage.layout import current_version
from tests.helpers.indexes import embeddings, make_run

K = 10
KEPT = 20  # versions that answers are compared with; the server is seconds behind the writer
THINK_SECONDS = 0.1  # of a client, between two searches
FRAME_SECONDS = 0.2
ADDED = 300  # rows a turn
CLOSE = 1e-5  # of two scores that are the same
OBJECTS, LIFE_FRAMES = 8, 200  # in a frame; that an object stays
PLACES = 2 * OBJECTS


@dataclass
class Version:
    """The rows of a version: their places by id, and their vectors [N, D] of length 1."""

    rows: dict[str, int]
    unit: NDArray[np.float64]

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float64]:
        """Cosines [N], by definition."""
        wide = query.astype(np.float64)
        answer: NDArray[np.float64] = self.unit @ (wide / np.linalg.norm(wide))
        return answer


class Searches:
    """Clients that search, and the comparison of what they are answered with brute force.

    Args:
        url: of the server.
        base: vectors [N, D] of the rows that are always there, d0, d1 and so on.
        over: set when the soak ends.
    """

    def __init__(self, url: str, base: NDArray[np.float32], over: threading.Event) -> None:
        self.url, self.base, self.over = url, base, over
        self.versions: dict[str, Version] = {}  # the last that the writer has made
        self.versions_made = 0
        self.gone: list[str] = []  # ids that the served version lacks for good
        self.compared = self.absent = 0
        self.recalls: list[float] = []
        self.wrong: list[str] = []
        self.errors: list[str] = []
        self._answers: queue.Queue[tuple[dict[str, Any], NDArray[np.float32], dict[str, Any]]]
        self._answers = queue.Queue()
        self._waiting: list[tuple[dict[str, Any], NDArray[np.float32], dict[str, Any]]] = []
        self.known("v0001", {f"d{row}": vector for row, vector in enumerate(base)})

    @property
    def recall(self) -> float:
        """Of the approximate searches, mean."""
        return float(np.mean(self.recalls)) if self.recalls else 0.0

    def known(self, version: str, rows: dict[str, NDArray[np.float32]]) -> None:
        """Tell which rows a version has."""
        vectors = np.array(list(rows.values()), np.float64)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        places = {name: row for row, name in enumerate(rows)}
        self.versions_made += version not in self.versions
        self.versions = dict([*self.versions.items(), (version, Version(places, unit))][-KEPT:])

    def ask(self) -> None:
        """One client: search until it is over."""
        dice = random.Random(threading.get_ident())
        noise = np.random.default_rng(threading.get_ident())
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.over.wait(THINK_SECONDS):
                row = dice.randrange(len(self.base))
                query, kind = self.base[row], dice.random()
                body: dict[str, Any] = {"k": K, "exact": dice.random() < 0.5}
                if kind < 0.05 and self.gone:
                    self._ask_gone(client, dice.choice(self.gone))
                    continue
                if kind < 0.5:
                    body["detection_id"] = f"d{row}"
                else:
                    query = query + noise.normal(scale=0.5, size=query.shape).astype(np.float32)
                    body["vector"] = query.tolist()
                if (answer := _post(client, "/v1/search", body, self.errors)) is not None:
                    self._answers.put((body, query, answer.json()))

    def _ask_gone(self, client: httpx.Client, name: str) -> None:
        answer = client.post("/v1/search", json={"detection_id": name})
        self.absent += answer.status_code == 404
        if answer.status_code != 404:
            self.wrong.append(f"{name} was deleted, and is answered: {answer.text[:200]}")

    def check(self) -> None:
        """Compare answers until it is over."""
        while not self.over.is_set():
            with suppress(queue.Empty):
                self._waiting.append(self._answers.get(timeout=0.5))
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if each[2]["snapshot"] in self.versions:
                    self._compare(*each)
                else:  # its writer has not come to its end yet
                    self._waiting.append(each)

    def finish(self) -> None:
        """Compare what is left; by now the writer knows all of its versions."""
        while not self._answers.empty():
            self._waiting.append(self._answers.get())
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if each[2]["snapshot"] in self.versions:
                self._compare(*each)
            else:
                self.wrong.append(f"version {each[2]['snapshot']} was not made, or long ago")

    def _compare(
        self, body: dict[str, Any], query: NDArray[np.float32], answer: dict[str, Any]
    ) -> None:
        version = self.versions[answer["snapshot"]]
        scores = version.scores(query)
        if "detection_id" in body:
            scores[version.rows[body["detection_id"]]] = -np.inf
        best = np.sort(np.partition(scores, -K)[-K:])[::-1]
        names = [hit["detection_id"] for hit in answer["hits"]]
        known = [version.rows.get(name) for name in names]
        true = np.array([np.nan if row is None else scores[row] for row in known])
        given = np.array([hit["score"] for hit in answer["hits"]])
        self.compared += 1
        right = len(set(names)) == len(names) == K and np.allclose(true, given, atol=CLOSE)
        right = right and bool((np.diff(given) <= CLOSE).all())
        if right and body["exact"]:
            right = np.allclose(given, best, atol=CLOSE)
        elif right:
            self.recalls.append(float(np.mean(given >= best[-1] - CLOSE)))
        if not right:
            kind = "id" if "detection_id" in body else "vector"
            self.wrong.append(f"{answer['snapshot']}, by {kind}: {names}, {given - true}")


def _post(
    client: httpx.Client, route: str, body: dict[str, Any], errors: list[str]
) -> httpx.Response | None:
    """The answer to a request; None, and a line in ``errors``, where there is none or it is not 200."""
    try:
        answer = client.post(route, json=body)
    except httpx.TransportError as error:
        errors.append(repr(error))
        return None
    if answer.status_code != 200:
        errors.append(f"{answer.status_code}: {answer.text[:200]}")
        return None
    return answer


class Camera:
    """One camera; every object in its frames is one individual and must be one track."""

    def __init__(self, url: str, dim: int, over: threading.Event) -> None:
        self.url, self.dim, self.over = url, dim, over
        self.frames = 0
        self.wrong: list[str] = []
        self.errors: list[str] = []
        self._random = np.random.default_rng(3)
        self._tracks: dict[int, str] = {}  # of the objects that were seen, by their number
        self._vectors: dict[int, NDArray[np.float64]] = {}

    def run(self) -> None:
        """Send frames until it is over."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.over.wait(FRAME_SECONDS):
                body = self._frame(self.frames)
                for repeat in range(2 if self.frames % 50 == 49 else 1):
                    answer = _post(client, "/v1/link", body, self.errors)
                    if answer is None:
                        continue
                    if repeat and "idempotent-replayed" not in answer.headers:
                        self.wrong.append(f"frame {self.frames} was linked twice")
                    else:
                        self._compare(self.frames, answer.json()["detections"])
                self.frames += 1

    def _alive(self, frame: int) -> dict[int, int]:
        """Objects in a frame, and the frames that they were there before; one leaves at a time."""
        step = LIFE_FRAMES // OBJECTS
        newest = frame // step
        first = max(0, newest - OBJECTS + 1)
        return {number: frame - step * number for number in range(first, newest + 1)}

    def _frame(self, frame: int) -> dict[str, Any]:
        detections = []
        for number in self._alive(frame):
            if number not in self._vectors:
                self._vectors[number] = self._random.normal(size=self.dim)
            # Nobody comes to a place that another has just left.
            x, y = 100 * (number % PLACES) + frame % 7, 50 + frame % 5
            vector = self._vectors[number] + self._random.normal(scale=0.05, size=self.dim)
            box = [x, y, x + 60, y + 60]
            name = f"f{frame}-{number}"
            detections.append({"detection_id": name, "box": box, "vector": vector.tolist()})
        size = {"image_width": 100 * PLACES, "image_height": 200}
        head = {"request_id": f"r{frame}", "sequence": "camera", "frame": frame}
        return head | size | {"detections": detections}

    def _compare(self, frame: int, rows: list[dict[str, Any]]) -> None:
        for (number, age), row in zip(self._alive(frame).items(), rows, strict=True):
            track = self._tracks.setdefault(number, row["track_id"])
            if row["track_id"] != track or row["position"] != age:
                self.wrong.append(f"frame {frame}, object {number}, age {age}: {row}")
        if len(set(self._tracks.values())) != len(self._tracks):
            self.wrong.append(f"frame {frame}: two objects are one track")


class Writer:
    """Adds, deletes, compacts and prunes by the command line, and says what each version has."""

    def __init__(
        self,
        url: str,
        work: Path,
        index: Path,
        searches: Searches,
        over: threading.Event,
        every: float,
    ) -> None:
        self.url, self.work, self.index = url, work, index
        self.searches, self.over, self.every = searches, over, every
        self.errors: list[str] = []
        self.rows = {f"d{row}": vector for row, vector in enumerate(searches.base)}
        self.added: dict[int, list[str]] = {}

    def run(self) -> None:
        """One turn after the other, until it is over."""
        turn = 0
        while not self.over.is_set():
            began = time.monotonic()
            try:
                self._turn(turn)
            except (subprocess.SubprocessError, RuntimeError, OSError) as error:
                self.errors.append(repr(error)[:1000])
            turn += 1
            self.over.wait(max(0.0, self.every - (time.monotonic() - began)))

    def _turn(self, turn: int) -> None:
        vectors = embeddings(ADDED, seed=turn + 1, dim=self.searches.base.shape[1])
        run = make_run(self.work / f"turn-{turn}", vectors, prefix=f"t{turn}-")
        names = [f"t{turn}-{row}" for row in range(ADDED)]
        self.added[turn] = names
        self._command("add", run, rows=self.rows | dict(zip(names, vectors, strict=True)))
        shutil.rmtree(run)
        old = self.added.pop(turn - 2, [])
        if old:
            file = self.work / "old.txt"
            file.write_text("\n".join(old) + "\n")
            left = {name: vector for name, vector in self.rows.items() if name not in set(old)}
            self._command("delete", "--ids", file, rows=left)
        self._command("compact", rows=self.rows)
        self._command("prune", "--keep", 2, rows=self.rows)
        self._wait_until_served()
        self.searches.gone = [*self.searches.gone[-1000:], *old]

    def _command(self, name: str, *arguments: object, rows: dict[str, NDArray[np.float32]]) -> None:
        words = ["index", name, str(self.index), *map(str, arguments)]
        runner.process([*runner.ONEPASS, *words])
        self.rows = rows
        self.searches.known(str(current_version(self.index)), rows)

    def _wait_until_served(self) -> None:
        """Until the server answers from the newest version: what is deleted is gone for good."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            served = httpx.get(f"{self.url}/v1/index", timeout=60).json()["version"]
            if served == current_version(self.index):
                return
            time.sleep(0.2)
        raise RuntimeError("the newest version is not served after 60 s")
