"""What a client can do to live linking: let its state grow, close a camera, stop it by damage."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from api.client import Client
from api.client.requests import vector_text
from api.config import Limits
from index.build.version import build_index
from tests.helpers.api.world import World, connected, error_of, frame_body, process, raised_error
from tests.helpers.runs import write_run
from tracks.association.options import LinkOptions

DIM, DETECTIONS = 1280, 1000  # of the attack: 5 MB of embeddings a frame
CAP = 40_000_000
SIZE = (99, 99)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of vectors as long as those of a usual model."""
    folder = tmp_path_factory.mktemp("wide")
    vectors = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
    run = write_run(folder / "run", {"image": [f"{row}.jpg" for row in range(40)]}, vectors)
    build_index([run.path], folder / "index")
    return folder / "index"


def disk(file: Path) -> int:
    return sum(each.stat().st_size for each in file.parent.glob(file.name + "*"))


def large_frame(sequence: str, request: int) -> dict[str, Any]:
    random = np.random.default_rng(request)  # nothing that an earlier frame has
    vectors = random.normal(size=(DETECTIONS, DIM)).astype(np.float32)
    places = random.choice(10_000, DETECTIONS, replace=False).tolist()
    corners = [(2 * (at % 100), 2 * (at // 100)) for at in places]
    detections = [
        {"box": [x, y, x + 1, y + 1], "vector": vector_text(vector)}
        for (x, y), vector in zip(corners, vectors, strict=True)
    ]
    return frame_body(sequence=sequence, request_id=str(request), detections=detections)


@pytest.mark.parametrize("sequences", [30, 1])
def test_thirty_large_requests_stay_within_the_cap(
    wide: Path, tmp_path: Path, sequences: int
) -> None:
    """193 MB of state in 30 requests, each of another sequence; in one, what a gallery keeps."""
    limits = Limits(link_bytes=CAP, link_sequence_bytes=CAP // 2)
    kind = "gallery" if sequences == 1 else "average"
    options = LinkOptions(appearance=kind, gallery_size=2, max_gap_frames=20)
    file = tmp_path / "state"
    with connected(wide, limits=limits, link_state=file, link_options=options) as (http, client):
        answers = [
            http.post("/v1/link", json=large_frame(f"s{number % sequences}", number))
            for number in range(30)
        ]
        code = {30: (503, "link_full"), 1: (422, "invalid_frame")}[sequences]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {(a.status_code, a.json()["error"]["code"]) for a in refused} == {code}
        assert len(refused) > 15
        text = http.get("/metrics").text
        kept = float(text.split("\nonepass_link_bytes ")[1].split()[0])
        assert 0 < kept <= CAP
        assert f"onepass_link_sequences {float(sequences == 1 or 30 - len(refused))}" in text
        # Those that came before go on, and the way out is as the message says.
        if sequences == 30:
            state = client.open_tracks("s0")
            assert len(state.tracks) == DETECTIONS
            assert state.bytes <= CAP // 2
            assert http.post("/v1/link", json=frame_body(sequence="s0", detections=[])).is_success
            client.delete_sequence("s1")
            assert http.post("/v1/link", json=large_frame("new", 1)).is_success
        assert http.get("/readyz").status_code == 200
        assert disk(file) <= CAP + CAP // 2  # what one frame has in the log
    assert disk(file) <= CAP


def test_many_sequences_are_refused_before_the_disk_is_full(world: World, tmp_path: Path) -> None:
    limits = Limits(link_sequences=50)
    with connected(world.index, limits=limits, link_state=tmp_path / "s") as (http, _):
        answers = [http.post("/v1/link", json=frame_body()) for _ in range(70)]
        assert [answer.status_code for answer in answers] == [200] * 50 + [503] * 20
        assert error_of(answers[-1], 503)[0] == "link_full"
        text = http.get("/metrics").text
        assert "onepass_link_sequences 50.0" in text
        assert 'onepass_rejected_requests_total{reason="link_full"} 20.0' in text


@contextmanager
def camera(world: World, file: Path, **options: Any) -> Iterator[Any]:
    """Links frames with one object that does not move, and gives each one's detection."""
    with connected(world.index, link_state=file, **options) as (_, client):

        def film(frame: int | None, seconds: float = 0, **more: Any) -> Any:
            taken = np.datetime64("2024-06-01T12:00:00") + np.timedelta64(int(seconds), "s")
            answer = client.link(
                "cam",
                [(1, 2, 30, 40)],
                request_id=f"{frame} {seconds}",
                vectors=np.ones((1, 32), np.float32),
                size=SIZE,
                frame=frame,
                timestamp=str(taken),
                **more,
            )
            return answer.detections[0]

        film.client = client  # type: ignore[attr-defined]
        yield film


@pytest.mark.parametrize("far", [2**53, 10**12, 10**6])
def test_a_frame_far_in_the_future_closes_no_camera(world: World, tmp_path: Path, far: int) -> None:
    with camera(world, tmp_path / "s") as film:
        film(57)
        error = raised_error(film, far)
        assert (error.status, error.code) == (422, "invalid_frame")
        assert "allow_jump" in error.message
        assert film(58).position == 1
        assert film(None).position == 2
        # Where it was let through: the way out.
        film(far, allow_jump=True)
        error = raised_error(film, 60)
        assert (error.status, "DELETE" in error.message) == (409, True)
        film.client.delete_sequence("cam")
        assert film(60).position == 0


@pytest.mark.parametrize("ahead", [3600, 86_400, 365 * 86_400, 70 * 365 * 86_400])
def test_a_clock_that_jumps_ahead_and_back_closes_no_track(
    world: World, tmp_path: Path, ahead: float
) -> None:
    options = LinkOptions(max_gap_seconds=60)
    with camera(world, tmp_path / "s", link_options=options) as film:
        assert [film(number, 10 * number).position for number in range(3)] == [0, 1, 2]
        if ahead > 31 * 86_400:
            assert raised_error(film, 3, ahead).status == 422
        else:
            assert film(3, ahead).position == 0
        after = film(4, 40)
        assert (after.track_id, after.position) == ("cam:00000", 3)


def test_a_damaged_sequence_is_one_clear_error(world: World, tmp_path: Path) -> None:
    with camera(world, file := tmp_path / "s") as film:
        film(1)
        client: Client = film.client
        client.link("other", [], request_id="1", size=SIZE)
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("UPDATE sequences SET tracks = zeroblob(9) WHERE name = 'cam'")
        for _ in range(2):
            for call in (lambda: film(2), lambda: client.open_tracks("cam")):
                error = raised_error(call)
                assert (error.status, error.code) == (409, "link_damaged")
                assert "'cam'" in error.message
                assert "DELETE /v1/link" in error.message
        assert client.link("other", [], request_id="2", size=SIZE).frame == 1
        client.delete_sequence("cam")
        assert film(2).position == 0


def not_ready(http: httpx.Client) -> str | None:
    """Why ``/readyz`` says no; None: it says yes."""
    answer = http.get("/readyz")
    return None if answer.status_code == 200 else error_of(answer, 503)[0]


@pytest.mark.parametrize("room", [0, 2_000_000])
def test_a_full_disk_is_not_ready_and_recovers(wide: Path, tmp_path: Path, room: int) -> None:
    """``RLIMIT_FSIZE`` is a disk on which no file grows beyond ``room``."""
    state = ("--link-state", str(tmp_path / "state"))
    with process("-m", "onepass", "serve", str(wide), *state, "--port") as (child, http):
        assert http.post("/v1/link", json=frame_body(sequence="s", detections=[])).is_success
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        if room:  # little fits, a large frame does not
            assert http.post("/v1/link", json=large_frame("t", 1)).status_code == 503
        wait_for(lambda: not_ready(http) == "link_unavailable")
        answer = http.post("/v1/link", json=large_frame("s", 2))
        assert error_of(answer, 503)[0] == "link_unavailable"
        assert http.get("/v1/index").status_code == http.get("/livez").status_code == 200
        assert not_ready(http) == "link_unavailable"
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, unlimited)
        wait_for(lambda: not_ready(http) is None)
        assert http.post("/v1/link", json=large_frame("s", 2)).json()["frame"] == 1


def wait_for(condition: Any, seconds: float = 30) -> None:
    for _ in range(int(seconds / 0.1)):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")
