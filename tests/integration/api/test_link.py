"""Live linking over the life of a server: restarts, kills, reloads, limits, and no disk."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from api.app import create_app
from api.client import Client
from api.http.limits import Limits
from api.routes import link as routes
from index.build.update import delete_rows
from index.build.version import build_index
from index.search.filters import Filter
from tests.helpers.refusals import only_error
from tests.helpers.runs import write_run
from tests.integration.api.contract import frame_body, raised_error
from tests.integration.api.world import World, error_of, serving, wait_until_ready
from tracks.association.options import LinkOptions
from tracks.live.session import IDLE_DAYS, LiveLinker
from tracks.live.store import KEPT_ANSWERS, LINK_STATE

ROOT = Path(__file__).parents[3]
SIZE = (240, 160)


@contextmanager
def camera(index: Path, **given: Any) -> Iterator[Client]:
    with serving(create_app(index, **given)) as http, Client(str(http.base_url)) as client:
        yield client


def see(client: Client, number: int, dim: int = 32, **more: Any) -> Any:
    """One still object, in frame ``number``."""
    given = {"request_id": f"r{number}", "vectors": np.ones((1, dim), np.float32), "size": SIZE}
    return client.link("cam", [(1, 2, 30, 40)], **(given | more))


@contextmanager
def process(index: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """The command, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "onepass", "serve", str(index), "--port", str(port), *more]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60) as http, Client(url) as client:
            wait_until_ready(http)
            yield child, client
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate(timeout=30)


def test_a_server_killed_outright_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    options = tmp_path / "options.json"
    options.write_text(json.dumps(asdict(LinkOptions(max_gap_frames=2))))
    given = ("--link-state", str(tmp_path / "new" / "state"), "--link-options", str(options))
    with process(world.index, *given) as (child, client):
        first = [see(client, number) for number in range(3)]
        os.kill(child.pid, signal.SIGKILL)
        child.wait(30)
    with process(world.index, *given) as (child, client):
        assert see(client, 2) == first[2]
        stands = client.open_tracks("cam")
        assert (stands.frame, stands.restarts, stands.tracks[0].length) == (2, None, 3)
        # Two frames missed: the track goes on under these options, and would not under "ami".
        after = see(client, 3, frame=5)
        assert (after.restarted, after.detections[0].position) == (None, 3)
    with process(world.index, *given[:2], "--link-preset", "ami") as (child, client):
        assert "max_gap_frames 2 to 0" in (client.open_tracks("cam").restarts or "")
        other = see(client, 4)
        assert "link options changed" in (other.restarted or "")
        assert other.detections[0].track_id == "cam:00001"
        assert client.open_tracks("cam").restarts is None


def test_two_preset_and_options_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onepass.cli.main import main

    for given, says in (
        (["--link-preset", "ami", "--link-options", "x"], "give one of them"),
        (["--link-options", "nowhere.json"], "--link-options nowhere.json cannot be read"),
    ):
        monkeypatch.setattr(sys, "argv", ["onepass", "serve", str(world.index), *given])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert says in only_error(caught.value.code, out, err)


def test_the_state_stands_in_the_index_and_bothers_nobody(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    plan = {"image": [f"{row}.jpg" for row in range(40)]}
    run, index = write_run(tmp_path / "run", plan, vectors), tmp_path / "index"
    build_index([run.path], index)
    facts = run.manifest.model.model_copy(update={"weights_sha256": "1" * 64})
    other = write_run(tmp_path / "other", plan, vectors, facts=facts)
    with camera(index) as client:
        see(client, 0, dim=8)
        assert (index / LINK_STATE).is_file()
        build_index([run.path], index)
        delete_rows(index, Filter("row_id < 5"))
        assert client.reload().version == "v0003"
        goes_on = see(client, 1, dim=8)
        assert (goes_on.restarted, goes_on.detections[0].position) == (None, 1)
    build_index([other.path], tmp_path / "next")
    with camera(tmp_path / "next", link_state=(index / LINK_STATE).resolve()) as client:
        assert "another model" in (client.open_tracks("cam").restarts or "")
        anew = see(client, 2, dim=8)
        assert "another model" in (anew.restarted or "")
        assert anew.detections[0].track_id == "cam:00001"


@pytest.mark.parametrize("why", ["a file", "none"])
def test_without_a_state_all_but_linking_works(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    (tmp_path / "file").write_text("")
    bad = tmp_path / "file" / "state" if why == "a file" else None
    with caplog.at_level(logging.ERROR), serving(create_app(world.index, link_state=bad)) as http:
        answer = http.post("/v1/link", json=frame_body())
        code, message = error_of(answer, 503)
        assert code == "link_unavailable"
        assert "--link-state" in message
        assert str(tmp_path) not in message
        assert answer.headers["retry-after"] == "5"
        error_of(http.get("/v1/link", params={"sequence": "cam"}), 404 if bad else 503)
        assert http.post("/v1/search", json={"detection_id": "a-0"}).status_code == 200
        if bad is not None:
            assert str(bad) in caplog.text  # for the operator
            bad.parent.unlink()
            bad.parent.mkdir()  # seen to, without a restart
            assert http.post("/v1/link", json=frame_body()).status_code == 200


def test_bounds_of_a_frame(world: World) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (100, 100), (9, 90, 9)).save(picture, "PNG")
    data, box = picture.getvalue(), (0.0, 0.0, 100.0, 100.0)
    with camera(world.index, limits=Limits(detections=3, pixels=20_000)) as client:
        boxes = [box] * 4
        ones = np.ones((4, 32), np.float32)
        error = raised_error(client.link, "c", boxes, request_id="1", vectors=ones, size=SIZE)
        assert (error.code, "up to 3" in error.message) == ("over_limit", True)
        for way in ({"image": data}, {"crops": [data] * 3, "size": SIZE}):
            error = raised_error(client.link, "c", boxes[:3], request_id="1", **way)
            assert (error.code, "20000" in error.message) == ("image_too_large", True)
        assert len(client.link("c", boxes[:2], request_id="1", image=data).detections) == 2
        crops = client.link("c", boxes[:2], request_id="2", crops=[data] * 2, size=SIZE)
        assert [link.cost for link in crops.detections] == [pytest.approx(0, abs=1e-5)] * 2


def test_frames_wait_in_a_bounded_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, go_on = threading.Event(), threading.Event()
    really = LiveLinker.link

    def slowly(self: LiveLinker, *args: Any, **more: Any) -> object:
        under_way.set()
        assert go_on.wait(60)
        return really(self, *args, **more)

    monkeypatch.setattr(LiveLinker, "link", slowly)
    with (
        serving(create_app(world.index, limits=Limits(waiting_frames=1))) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(http.post, "/v1/link", json=frame_body())
        assert under_way.wait(60)
        body = frame_body()
        answer = http.post("/v1/link", json=body)
        assert error_of(answer, 429)[0] == "too_busy"
        assert answer.headers["retry-after"] == "1"
        assert http.post("/v1/search", json={"detection_id": "a-0"}).status_code == 200
        go_on.set()
        assert first.result().status_code == 200
        assert http.post("/v1/link", json=body).status_code == 200
        assert 'onepass_rejected_requests_total{reason="frames"} 1.0' in http.get("/metrics").text


def test_weak_detections_and_time_as_the_options_say(world: World, tmp_path: Path) -> None:
    options = LinkOptions(strong_score=0.5, max_gap_seconds=60)
    with camera(world.index, link_state=tmp_path / "s", link_options=options) as client:
        error = raised_error(see, client, 0)
        assert (error.status, error.code) == (422, "invalid_frame")
        assert "max_gap_seconds 60" in error.message
        weak = see(client, 0, timestamp="2024-06-01T12:00:00", scores=[0.1]).detections[0]
        assert (weak.track_id, weak.position, weak.cost) == (None, None, None)
        see(client, 1, timestamp="2024-06-01T12:00:10", scores=[0.9])
        taken = see(client, 2, timestamp="2024-06-01T12:00:20", scores=[0.1]).detections[0]
        assert (taken.track_id, taken.position) == ("cam:00000", 1)
        error = raised_error(see, client, 3, timestamp="2024-06-01T12:00:19")
        assert (error.status, "before the last one" in error.message) == (422, True)
        late = see(client, 4, timestamp="2024-06-01T12:01:21").detections[0]
        assert (late.track_id, late.position) == ("cam:00001", 0)


def test_what_became_of_detections_is_counted(world: World, tmp_path: Path) -> None:
    options = LinkOptions(strong_score=0.5)
    app = create_app(world.index, link_state=tmp_path / "s", link_options=options)
    with serving(app) as http, Client(str(http.base_url)) as client:
        see(client, 0, scores=[0.9])
        see(client, 1, scores=[0.9])
        see(client, 1, scores=[0.9])  # again: it counts once
        client.link(
            "cam",
            [(1, 2, 30, 40), (200, 100, 230, 130)],
            request_id="r2",
            vectors=np.stack([np.ones(32), -np.ones(32)]),
            size=SIZE,
            scores=[0.9, 0.1],
        )
        text = http.get("/metrics").text
    for name, count in (("continued", 2), ("started", 1), ("weak", 1)):
        assert f'onepass_linked_detections_total{{as="{name}"}} {count}.0' in text


def test_the_documentation_states_what_is_kept() -> None:
    said = " ".join((routes.link.__doc__ or "").split())
    assert f"last {KEPT_ANSWERS} requests" in said
    assert f"for {IDLE_DAYS} days" in said
