"""Servers that are killed while they answer: searches, and the frames of a live camera."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from index.build.version import build_index
from index.config import IndexConfig
from tests.helpers.api.world import free_port
from tests.helpers.fork_server import ForkServer
from tests.helpers.indexes import embeddings, make_run, true_hits
from tests.helpers.killed_indexes import check_versions
from tests.helpers.kills import HANG_SECONDS, Findings
from tests.helpers.scenes import crowd, frames_of

K, FRAMES = 5, 60
WORK_SECONDS = 0.4  # of answers before a kill, at most
START_SHARE = 0.3  # of the kills, while the server starts


class Server:
    """``onepass serve`` of an index, forked, and killed at a moment."""

    def __init__(self, forks: ForkServer, index: Path, log: Path, *more: object) -> None:
        self.forks, self.port = forks, free_port()
        words = ["serve", index, "--port", self.port, *more]
        self.pid = forks.start(*words, log=log)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=HANG_SECONDS)

    def wait(self) -> bool:
        """As ``wait_until_ready``."""
        return wait_until_ready(self.url)

    def kill(self, found: Findings, *, due: bool) -> None:
        """Kill it; one that was due is counted."""
        ended = self.forks.kill(self.pid)
        self.client.close()
        if ended.left:
            found.wrong.append(f"{ended.left} processes of a server are left")
        if ended.code != -9:
            found.wrong.append(f"a server ended by itself with {ended.code}")
        if due:
            found.kills += 1
            found.at_work += ended.code == -9

    def kill_at_work(self, work: Callable[[], Any], seconds: float, found: Findings) -> None:
        """Kill it after so many seconds, while ``work`` sends requests from another thread."""
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(seconds)
        self.kill(found, due=True)
        thread.join(HANG_SECONDS)
        found.hangs += thread.is_alive()


def wait_until_ready(url: str) -> bool:
    """Wait until a server is ready; False where it is not within ``HANG_SECONDS``."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return True
        time.sleep(0.01)
    return False


def kill_servers(forks: ForkServer, work: Path, kills: int, dice: random.Random) -> Findings:
    """Kill servers while they start and while they answer searches; each next one must be right."""
    found, log, index = Findings(), work / "log", work / "index"
    vectors = embeddings(600)
    build_index([make_run(work / "run", vectors)], index, IndexConfig(factory="IVF16,Flat"))
    nearest = true_hits("cosine", vectors[:50], vectors, K)

    def ask(server: Server, query: int) -> bool:
        body = {"vector": vectors[query].tolist(), "k": K, "exact": True}
        try:
            answer = server.client.post("/v1/search", json=body)
        except (httpx.TransportError, RuntimeError):  # it was killed, and the client closed
            return False
        hits = answer.json()["hits"] if answer.status_code == 200 else []
        names = [hit["detection_id"] for hit in hits]
        found.compare(names, [f"d{row}" for row in nearest.rows[query]])
        scores = [hit["score"] for hit in hits]
        if len(scores) != K or not np.allclose(scores, nearest.scores[query], atol=1e-5):
            found.wrong.append(f"scores of {names}")
        return True

    def keep_asking(server: Server) -> None:
        query = 0
        while ask(server, query % 50):
            query += 1

    ready_after = 0.5
    while found.kills < kills:
        began = time.monotonic()
        server = Server(forks, index, log)
        if dice.random() < START_SHARE:
            time.sleep(dice.uniform(0, ready_after))
            server.kill(found, due=True)
        else:
            found.hangs += not server.wait()
            ready_after = time.monotonic() - began
            asking = partial(keep_asking, server)
            server.kill_at_work(asking, dice.uniform(0, WORK_SECONDS), found)
        check_versions(index)
    server = Server(forks, index, log)
    found.hangs += not server.wait()
    for query in range(50):
        if not ask(server, query):
            found.wrong.append("the last server does not answer")
    server.kill(found, due=False)
    return found


def kill_linking(forks: ForkServer, work: Path, kills: int, dice: random.Random) -> Findings:
    """Kill servers while they link a camera's frames, each sent again until it is answered."""
    found, log, index = Findings(), work / "log", work / "index"
    scene = crowd(frames=FRAMES)
    build_index([make_run(work / "run", scene[2])], index, IndexConfig(factory="Flat"))
    bodies = [_body(frame) for frame in frames_of(scene)]
    expected = _film(forks, index, work / "undisturbed", log, bodies, None, found)
    number = 0
    while found.kills < kills:
        state, number = work / f"state-{number}", number + 1
        answers = _film(forks, index, state, log, bodies, dice, found)
        for name in ("detection_id", "track_id"):
            rows = [_names(all_answers, name) for all_answers in (answers, expected)]
            if name == "detection_id":
                found.compare(*rows)
            elif rows[0] != rows[1]:
                found.wrong.append("tracks differ from those of the undisturbed server")
        if answers != expected:
            found.wrong.append("answers differ from those of the undisturbed server")
        places = [
            (row["track_id"], row["position"])
            for answer in answers[:-1]
            for row in answer["detections"]
            if row["track_id"] is not None
        ]
        found.twice += len(places) - len(set(places))
        left = {entry.name for entry in state.iterdir()}
        if not left <= {"links", "links-wal", "links-shm"}:
            found.wrong.append(f"left: {left}")
        shutil.rmtree(state)
    return found


def _names(answers: list[dict[str, Any]], field: str) -> list[Any]:
    return [row[field] for answer in answers[:-1] for row in answer["detections"]]


def _film(
    forks: ForkServer,
    index: Path,
    state: Path,
    log: Path,
    bodies: list[dict[str, Any]],
    dice: random.Random | None,
    found: Findings,
) -> list[dict[str, Any]]:
    """Send all frames in order; the answers, and the open tracks at the end.

    With ``dice`` every server is killed at a moment, and the frame without an answer is sent to
    the next one.
    """
    answers: list[dict[str, Any]] = []

    def send(server: Server) -> None:
        with contextlib.suppress(httpx.TransportError, RuntimeError):  # it was killed
            while len(answers) < len(bodies):
                answer = server.client.post("/v1/link", json=bodies[len(answers)])
                if answer.status_code != 200:
                    found.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
                    return
                answers.append(answer.json())

    while True:
        server = Server(forks, index, log, "--link-state", state / "links")
        found.hangs += not server.wait()
        if dice is None or len(answers) == len(bodies):
            send(server)
            sequence = {"sequence": bodies[0]["sequence"]}
            answers.append(server.client.get("/v1/link", params=sequence).json())
            server.kill(found, due=False)
            return answers
        before = len(answers)
        server.kill_at_work(partial(send, server), dice.uniform(0, 0.15), found)
        if len(answers) - before > len(bodies) or found.wrong:
            return answers


def _body(frame: Any) -> dict[str, Any]:
    rows = zip(frame.ids, frame.boxes.tolist(), frame.scores.tolist(), frame.vectors, strict=True)
    return {
        "request_id": f"r{frame.number}",
        "sequence": frame.sequence,
        "frame": frame.number,
        "image_width": 800,
        "image_height": 600,
        "detections": [
            {"detection_id": name, "box": box, "score": score, "vector": vector.tolist()}
            for name, box, score, vector in rows
        ],
    }
