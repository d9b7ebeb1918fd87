"""Linking frame by frame, with the file closed in between, is linking the whole."""

from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import ClashError, FrameError, LinkStateError, SnapshotError
from tests.helpers.live import ask, live, same
from tests.helpers.scenes import NOON, crowd, frames_of, still
from tracks.association.linker import link
from tracks.association.options import PRESETS, LinkOptions
from tracks.live.session import IDLE_DAYS
from tracks.live.transaction import KEPT_ANSWERS

VARIANTS = {
    **PRESETS,
    "antenna": PRESETS["antenna"].replace(max_cost=1.0),  # at 0.2 it links hardly anything here
    "gallery": LinkOptions(appearance="gallery", gallery_size=3, motion_gate=3.0),
    "weak": LinkOptions(strong_score=0.35, max_gap_seconds=2.5),
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_restarted_between_all_frames_it_links_as_the_whole_at_once(
    tmp_path: Path, options: LinkOptions
) -> None:
    scene = crowd(frames=20)
    frames = frames_of(scene, seconds=True)
    whole = link(
        scene[0],
        scene[1],
        scene[2],
        diagonal_px=1000.0,
        seconds=scene[0].astype(float),
        scores=np.concatenate([frame.scores for frame in frames if frame.scores is not None]),
        options=options,
    )
    assert (whole.previous >= 0).sum() > 50
    assert (whole.track < 0).any() == (options.strong_score is not None)
    answers = []
    for frame in frames:
        linker = live(tmp_path / "a.sqlite3", options)
        answers.append(ask(linker, frame, f"r{frame.number}"))
        linker.store.close()
    same(answers, whole)
    last = answers[-1]
    assert last["restarted"] is None
    stays = live(tmp_path / "b.sqlite3", options)
    assert [ask(stays, frame, f"r{frame.number}") for frame in frames] == answers
    state = stays.state("deep/er")
    assert state is not None
    assert state.tracks is not None
    assert len(set(state.tracks.track.tolist())) == last["tracks_open"] > 0
    assert state.head.frame == 19
    assert state.head.started == whole.track.max() + 1


def test_a_frame_with_nothing_in_it_is_a_frame_missed(tmp_path: Path) -> None:
    for gap, goes_on in ((1, True), (0, False)):
        linker = live(tmp_path / f"{gap}", LinkOptions(max_gap_frames=gap))
        ask(linker, still(), "a")
        empty = ask(linker, still(count=0), "b")
        assert (empty["frame"], empty["detections"]) == (1, [])
        after = ask(linker, still(), "c")
        assert (after["detections"][0]["position"] == 1) is goes_on


def test_gaps_are_counted_in_the_step_of_the_camera(tmp_path: Path) -> None:
    for step, goes_on in ((5, True), (1, False)):
        linker = live(tmp_path / f"{step}", LinkOptions(max_gap_frames=1))
        ask(linker, still(0, step=step), "a")
        assert ask(linker, still(10, step=step), "b")["detections"][0]["position"] == goes_on
        assert ask(linker, still(None, step=step), "c")["frame"] == 10 + step


def test_a_repeated_request_has_the_same_bytes_and_no_effect(tmp_path: Path) -> None:
    linker = live(tmp_path / "s")
    first = linker.link(still(3), request_id="a", digest=b"1", fingerprint="m")
    assert (first.repeated, first.started) == (False, 1)
    ask(linker, still(4), "b")
    again = linker.link(still(3), request_id="a", digest=b"1", fingerprint="m")
    assert (again.body, again.repeated, again.started) == (first.body, True, 0)
    assert live(tmp_path / "s").stored_answer("cam", "a", b"1") == first.body
    assert linker.stored_answer("cam", "c", b"1") is None
    assert linker.stored_answer("other", "a", b"1") is None
    with pytest.raises(ClashError, match="request_id 'a' of sequence 'cam' was answered before"):
        linker.link(still(9), request_id="a", digest=b"2", fingerprint="m")
    with pytest.raises(ClashError, match="another request"):
        linker.stored_answer("cam", "a", b"2")
    state = linker.state("cam")
    assert state is not None
    assert (state.head.frame, state.head.rows) == (4, 2)


def test_only_the_last_answers_are_kept(tmp_path: Path) -> None:
    linker = live(tmp_path / "s")
    for number in range(KEPT_ANSWERS + 3):
        ask(linker, still(number), f"r{number}")
    ask(linker, still(0, sequence="other"), "r0")
    kept = [linker.stored_answer("cam", f"r{n}", f"r{n}".encode()) is not None for n in range(5)]
    assert kept == [False, False, False, True, True]
    assert linker.stored_answer("other", "r0", b"r0")
    with sqlite3.connect(tmp_path / "s") as file:
        assert file.execute("SELECT count(*) FROM answers").fetchone() == (KEPT_ANSWERS + 1,)
    file.close()


def test_frames_that_do_not_follow_are_refused(tmp_path: Path) -> None:
    linker = live(tmp_path / "s")
    ask(linker, still(7), "a")
    for number in (7, 3):
        with pytest.raises(ClashError, match=f"frame {number} .*'cam'.* the last one, 7"):
            ask(linker, still(number), "b")
    with pytest.raises(SnapshotError, match="'cam-8-0'"):
        ask(linker, still(8, vectors=np.zeros((1, 4), np.float32)), "c")
    assert ask(linker, still(8), "d")["detections"][0]["previous_detection_id"] == "cam-7-0"
    timed = live(tmp_path / "t", LinkOptions(max_gap_seconds=60))
    with pytest.raises(FrameError, match="max_gap_seconds 60, so a frame needs a timestamp"):
        ask(timed, still(1), "a")
    ask(timed, still(1, taken=NOON), "a")
    # A zone is counted with: this is 11:30 in UTC.
    zoned = (NOON - timedelta(minutes=30)).replace(tzinfo=UTC)
    assert ask(timed, still(2, taken=zoned), "z")["detections"][0]["track_id"] == "cam:00001"
    assert ask(timed, still(3, taken=NOON), "b")["detections"][0]["position"] == 1
    late = NOON + timedelta(seconds=61)
    assert ask(timed, still(4, taken=late), "c")["detections"][0]["position"] == 0


def test_other_options_or_another_model_start_new_tracks_and_say_so(tmp_path: Path) -> None:
    file = tmp_path / "s"
    ask(live(file), still(0, count=2), "a")
    changed = ask(live(file, LinkOptions(max_cost=1.0, max_gap_frames=2)), still(1), "b")
    assert changed["restarted"] == (
        "the link options changed: max_cost 2.0 to 1.0, max_gap_frames 5 to 2"
    )
    assert changed["detections"][0]["track_id"] == "cam:00002"
    assert changed["detections"][0]["previous_detection_id"] is None
    wider = still(2, vectors=np.ones((1, 9), np.float32))
    other = ask(live(file, LinkOptions(max_cost=1.0, max_gap_frames=2)), wider, "c", "model 2")
    assert "another model" in other["restarted"]
    assert other["detections"][0]["track_id"] == "cam:00003"
    again = replace(wider, number=3)
    gone_on = ask(live(file, LinkOptions(max_cost=1.0, max_gap_frames=2)), again, "d", "model 2")
    assert gone_on["restarted"] is None
    assert gone_on["detections"][0]["track_id"] == "cam:00003"


def test_an_idle_sequence_is_closed_and_never_names_a_track_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 1e9
    linker = live(tmp_path / "s", now=lambda: clock)
    ask(linker, still(0, sequence="a"), "r")
    ask(linker, still(0, sequence="b"), "r")
    clock += (IDLE_DAYS - 1) * 86_400
    assert ask(linker, still(1, sequence="a"), "s")["restarted"] is None
    clock += 2 * 86_400
    state = linker.state("b")  # idle, whether or not it was cleared away
    assert state is not None
    assert state.tracks is None
    with caplog.at_level(logging.INFO, "onepass.link"):
        ask(linker, still(0, sequence="new"), "r")
    assert "closed the open tracks of 1 sequences" in caplog.text
    assert linker.stored_answer("b", "r", b"r") is None
    assert linker.stored_answer("a", "r", b"r") is not None
    with pytest.raises(ClashError, match="not later than the last one, 0"):
        ask(linker, still(0, sequence="b"), "r")
    back = ask(linker, still(1, sequence="b"), "r")
    assert "nothing came for so long" in back["restarted"]
    assert back["detections"][0]["track_id"] == "b:00001"


def test_two_cameras_and_two_processes_share_the_file(tmp_path: Path) -> None:
    linkers = [live(tmp_path / "new" / "s") for _ in range(4)]  # each with a connection of its own

    def film(number: int) -> list[Any]:
        linker, name = linkers[number], f"cam-{number}"
        return [ask(linker, still(at, sequence=name), f"r{at}") for at in range(30)]

    with ThreadPoolExecutor(4) as pool:
        for number, answers in enumerate(pool.map(film, range(4))):
            ids = {answer["detections"][0]["track_id"] for answer in answers}
            assert ids == {f"cam-{number}:00000"}
            assert answers[-1]["detections"][0]["position"] == 29
        # One request, sent by all four at once: linked once, the same bytes for everybody.
        futures = [
            pool.submit(linker.link, still(0), request_id="one", digest=b"one", fingerprint="model")
            for linker in linkers
        ]
        answers = [future.result() for future in futures]
    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.repeated for answer in answers) == 1


def test_a_file_that_cannot_be_used_says_which_and_what_to_do(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database " * 100)
    other = tmp_path / "other"
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE mine (x)")
    file.close()
    for bad, says in (
        (text, "not a database"),
        (other, "no state of live linking"),
        (tmp_path, "unable to open"),
        (text / "below", "Not a directory|File exists"),
    ):
        with pytest.raises(LinkStateError, match=says) as caught:
            ask(live(bad), still(0), "a")
        assert str(bad) in str(caught.value)
        assert "`link_state`" in str(caught.value)
    assert text.read_text() == "no database " * 100


def test_one_that_holds_the_file_too_long_is_an_error(tmp_path: Path) -> None:
    ask(live(tmp_path / "s"), still(0), "a")
    holder = sqlite3.connect(tmp_path / "s", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waits = live(tmp_path / "s", wait_seconds=0.05)
    with pytest.raises(LinkStateError, match="locked"):
        ask(waits, still(1), "b")
    holder.execute("ROLLBACK")
    holder.close()
    assert ask(waits, still(1), "b")["detections"][0]["position"] == 1


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    linker = live(tmp_path / "s")
    ask(linker, still(0), "a")
    connection = linker.store._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(
        f"PRAGMA max_page_count = {pages}"
    )  # SQLite's words are those of a full disk
    wide = still(1, count=4, vectors=np.ones((4, 4000), np.float32))
    with pytest.raises(LinkStateError, match="full"):
        ask(linker, wide, "b", "wider")
    state = linker.state("cam")
    assert state is not None
    assert (state.head.frame, state.head.rows) == (0, 1)
    connection.execute("PRAGMA max_page_count = 100000")
    assert ask(linker, still(1), "c")["detections"][0]["position"] == 1
    assert linker.stored_answer("cam", "b", b"b") is None


def test_a_removed_file_begins_anew(tmp_path: Path) -> None:
    linker = live(tmp_path / "s")
    assert linker.state("cam") is None
    assert linker.stored_answer("cam", "a", b"a") is None
    assert not (tmp_path / "s").exists()  # asking makes nothing
    ask(linker, still(5), "a")
    for file in tmp_path.iterdir():
        file.unlink()
    assert linker.state("cam") is None
    assert ask(linker, still(0), "a")["frame"] == 0
    assert ask(live(tmp_path / "s"), still(1), "b")["detections"][0]["position"] == 1
