"""Live linking across restarts, kills and reloads of a server, its limits, and without a disk."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from api.client import Client
from api.config import Limits
from api.routes import link as routes
from index.build.update import delete_rows
from index.build.version import build_index
from index.search.filters import Filter
from tests.helpers.api.world import (
    World,
    connected,
    error_of,
    frame_body,
    process,
    raised_error,
    serving,
)
from tests.helpers.refusals import only_error
from tests.helpers.runs import write_run
from tracks.association.options import LinkOptions
from tracks.live import LINK_STATE
from tracks.live.session import IDLE_DAYS
from tracks.live.transaction import KEPT_ANSWERS

SIZE = (240, 160)


@contextmanager
def camera(index: Path, **options: Any) -> Iterator[Client]:
    with connected(index, **options) as (_, client):
        yield client


def link_frame(client: Client, number: int, dim: int = 32, **fields: Any) -> Any:
    """Link frame ``number``, with one object that does not move."""
    defaults = {"request_id": f"r{number}", "vectors": np.ones((1, dim), np.float32), "size": SIZE}
    return client.link("cam", [(1, 2, 30, 40)], **(defaults | fields))


@contextmanager
def command(index: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """``onepass serve`` as a process."""
    with (
        process("-m", "onepass", "serve", str(index), *options, "--port") as (child, http),
        Client(str(http.base_url)) as client,
    ):
        yield child, client


def test_a_killed_server_continues_where_it_was(world: World, tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text(LinkOptions(max_gap_frames=2).model_dump_json())
    options = ("--link-state", str(tmp_path / "new" / "state"), "--link-options", str(file))
    with command(world.index, *options) as (child, client):
        first = [link_frame(client, number) for number in range(3)]
        os.kill(child.pid, signal.SIGKILL)
        child.wait(30)
    with command(world.index, *options) as (child, client):
        assert link_frame(client, 2) == first[2]
        state = client.open_tracks("cam")
        assert (state.frame, state.restarts, state.tracks[0].length) == (2, None, 3)
        # Two frames missed: these options continue the track, "ami" would not.
        later = link_frame(client, 3, frame=5)
        assert (later.restarted, later.detections[0].position) == (None, 3)
    with command(world.index, *options[:2], "--link-preset", "ami") as (child, client):
        assert "max_gap_frames 2 to 0" in (client.open_tracks("cam").restarts or "")
        other = link_frame(client, 4)
        assert "link options changed" in (other.restarted or "")
        assert other.detections[0].track_id == "cam:00001"
        assert client.open_tracks("cam").restarts is None


def test_invalid_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onepass.cli.main import main

    file = tmp_path / "options.json"
    file.write_text("{}")
    for options, named in (
        (["--link-preset", "ami", "--link-options", str(file)], "--link-options"),
        (["--link-options", "nowhere.json"], "--link-options nowhere.json"),
        (["--replicas", "2"], "--replicas 2"),
        (["--address", "head:6379"], "--address head:6379"),
    ):
        monkeypatch.setattr(sys, "argv", ["onepass", "serve", "index", *options])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert named in only_error(caught.value.code, out, err)


def test_the_state_file_survives_new_versions(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    plan = {"image": [f"{row}.jpg" for row in range(40)]}
    run, index = write_run(tmp_path / "run", plan, vectors), tmp_path / "index"
    build_index([run.path], index)
    model = run.manifest.model.model_copy(update={"weights_sha256": "1" * 64})
    other = write_run(tmp_path / "other", plan, vectors, facts=model)
    with camera(index) as client:
        link_frame(client, 0, dim=8)
        assert (index / LINK_STATE).is_file()
        build_index([run.path], index)
        delete_rows(index, Filter("row_id < 5"))
        assert client.reload().version == "v0003"
        continued = link_frame(client, 1, dim=8)
        assert (continued.restarted, continued.detections[0].position) == (None, 1)
    build_index([other.path], tmp_path / "next")
    with camera(tmp_path / "next", link_state=(index / LINK_STATE).resolve()) as client:
        assert "another model" in (client.open_tracks("cam").restarts or "")
        anew = link_frame(client, 2, dim=8)
        assert "another model" in (anew.restarted or "")
        assert anew.detections[0].track_id == "cam:00001"


@pytest.mark.parametrize("state", ["not writable", "none"])
def test_without_a_state_file_all_but_linking_works(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    (tmp_path / "file").write_text("")
    unwritable = tmp_path / "file" / "state" if state == "not writable" else None
    fields = {"link_state": unwritable} if unwritable else {"live": False}
    with (
        caplog.at_level(logging.ERROR),
        serving(world.index, ready=not unwritable, **fields) as http,
    ):
        if unwritable is not None:
            wait_for_index(http)
            assert error_of(http.get("/readyz"), 503)[0] == "link_unavailable"
        answer = http.post("/v1/link", json=frame_body())
        code, message = error_of(answer, 503)
        assert code == "link_unavailable"
        assert str(tmp_path) not in message
        assert answer.headers["retry-after"] == "5"
        for method in ("GET", "DELETE"):
            error_of(http.request(method, "/v1/link/cam"), 404 if unwritable else 503)
        assert http.post("/v1/search", json={"detection_id": "a-0"}).status_code == 200
        if unwritable is not None:
            assert str(unwritable) in caplog.text  # for the operator
            unwritable.parent.unlink()
            unwritable.parent.mkdir()  # repaired, without a restart
            assert http.post("/v1/link", json=frame_body()).status_code == 200
        assert http.get("/readyz").status_code == 200


def wait_for_index(http: httpx.Client) -> None:
    """Wait until the index is open, for a server that is not ready for another reason."""
    while http.get("/v1/index").status_code != 200:
        time.sleep(0.05)


def test_limits_of_a_frame(world: World) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (100, 100), (9, 90, 9)).save(picture, "PNG")
    data, box = picture.getvalue(), (0.0, 0.0, 100.0, 100.0)
    with camera(world.index, limits=Limits(detections=3, pixels=20_000)) as client:
        boxes = [box] * 4
        ones = np.ones((4, 32), np.float32)
        error = raised_error(client.link, "c", boxes, request_id="1", vectors=ones, size=SIZE)
        assert (error.code, "up to 3" in error.message) == ("over_limit", True)
        for content in ({"image": data}, {"crops": [data] * 3, "size": SIZE}):
            error = raised_error(client.link, "c", boxes[:3], request_id="1", **content)
            assert (error.code, "20000" in error.message) == ("image_too_large", True)
        assert len(client.link("c", boxes[:2], request_id="1", image=data).detections) == 2
        crops = client.link("c", boxes[:2], request_id="2", crops=[data] * 2, size=SIZE)
        assert [link.duplicate_of for link in crops.detections] == [None, "2/0"]
        assert crops.detections[0].cost == pytest.approx(0, abs=1e-5)


def test_weak_detections_and_time_as_the_options_say(world: World, tmp_path: Path) -> None:
    options = LinkOptions(strong_score=0.5, max_gap_seconds=60)
    with camera(world.index, link_state=tmp_path / "s", link_options=options) as client:
        error = raised_error(link_frame, client, 0)
        assert (error.status, error.code) == (422, "invalid_frame")
        assert "max_gap_seconds 60" in error.message
        weak = link_frame(client, 0, timestamp="2024-06-01T12:00:00", scores=[0.1]).detections[0]
        assert (weak.track_id, weak.position, weak.cost) == (None, None, None)
        link_frame(client, 1, timestamp="2024-06-01T12:00:10", scores=[0.9])
        taken = link_frame(client, 2, timestamp="2024-06-01T12:00:20", scores=[0.1]).detections[0]
        assert (taken.track_id, taken.position) == ("cam:00000", 1)
        back = link_frame(client, 3, timestamp="2024-06-01T12:00:19").detections[0]
        assert (back.track_id, back.position) == ("cam:00000", 2)
        late = link_frame(client, 4, timestamp="2024-06-01T12:01:20").detections[0]
        assert (late.track_id, late.position) == ("cam:00001", 0)


def test_linked_detections_are_counted(world: World, tmp_path: Path) -> None:
    options = LinkOptions(strong_score=0.5)
    state = tmp_path / "s"
    with connected(world.index, link_state=state, link_options=options) as (http, client):
        link_frame(client, 0, scores=[0.9])
        link_frame(client, 1, scores=[0.9])
        link_frame(client, 1, scores=[0.9])  # a repeated request counts once
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
    documentation = " ".join((routes.link.__doc__ or "").split())
    assert f"last {KEPT_ANSWERS} requests" in documentation
    assert f"for {IDLE_DAYS} days" in documentation
