"""One wrong frame closes no camera, the state stays within its caps, and damage is named."""

from __future__ import annotations

import json
import logging
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import ClashError, FrameError, LinkDamagedError, LinkFullError, LinkStateError
from tests.helpers import scenes
from tests.helpers.scenes import NOON, crowd, frames_of
from tracks.association.linker import link
from tracks.association.options import PRESETS, LinkOptions
from tracks.live.frame import Frame
from tracks.live.order import JUMP_DAYS, JUMP_FRAMES
from tracks.live.session import LiveLinker
from tracks.live.store import LinkStore
from tracks.live.tables import FORMAT
from tracks.live.transaction import IDLE_SECONDS, KEPT_ANSWERS, Caps

DAY = 86_400.0
GAP = LinkOptions(max_gap_seconds=60)


@contextmanager
def live(
    file: Path, options: LinkOptions | None = None, *, caps: Caps | None = None, **more: Any
) -> Iterator[LiveLinker]:
    store = LinkStore(file, caps=caps, wait_seconds=0.2)
    try:
        yield LiveLinker(store, options or PRESETS["online"], **more)
    finally:
        store.close()


def still(number: int | None = None, *, count: int = 1, dim: int = 4, **more: Any) -> Frame:
    """A frame with ``count`` objects that do not move, with vectors of ``dim`` values."""
    given = {
        "ids": [f"{number}/{at}" for at in range(count)],
        "vectors": np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32),
    }
    return scenes.still(number, count=count, **(given | more))


def ask(linker: LiveLinker, frame: Frame, request: str | None = None) -> Any:
    name = request or f"{frame.sequence} {frame.number} {frame.taken}"
    answer = linker.link(frame, request_id=name, digest=name.encode(), fingerprint="model")
    return json.loads(answer.body)


def position(answer: Any) -> int:
    return int(answer["detections"][0]["position"])


@pytest.mark.parametrize("far", [2**53, 10**9, 7 + JUMP_FRAMES + 1])
def test_a_number_far_ahead_does_not_close_a_camera(tmp_path: Path, far: int) -> None:
    with live(tmp_path / "s", now=lambda: 0.0) as linker:
        ask(linker, still(7))
        with pytest.raises(FrameError) as caught:
            ask(linker, still(far))
        assert not isinstance(caught.value, ClashError)
        assert position(ask(linker, still(8))) == 1
        ask(linker, still(far, allow_jump=True))
        with pytest.raises(ClashError):
            ask(linker, still(9))
        assert linker.delete("cam")
        assert ask(linker, still(9))["frame"] == 9


def test_a_jump_that_a_pause_explains_is_linked(tmp_path: Path) -> None:
    clock = 1e9
    with live(tmp_path / "s", now=lambda: clock) as linker:
        ask(linker, still(0))
        ask(linker, still(JUMP_FRAMES))
        clock += 7 * DAY
        ask(linker, still(JUMP_FRAMES + 25 * 7 * 86_400))  # at 25 frames a second
        # Numbers that are milliseconds, of a camera that says so.
        ask(linker, still(0, sequence="ms", step=1000))
        ask(linker, still(90_000_000, sequence="ms", step=1000))
        clock -= 3 * DAY  # this machine's clock was corrected
        ask(linker, still(90_000_001, sequence="ms", step=1000))


@pytest.mark.parametrize("options", [None, GAP])
def test_a_time_far_ahead_is_refused(tmp_path: Path, options: LinkOptions | None) -> None:
    clock = 1e9
    with live(tmp_path / "s", options, now=lambda: clock) as linker:
        ask(linker, still(0, taken=NOON))
        for days in (JUMP_DAYS + 1, 400, 365 * 70):
            with pytest.raises(FrameError):
                ask(linker, still(1, taken=NOON + timedelta(days=days)))
        assert position(ask(linker, still(1, taken=NOON + timedelta(seconds=9)))) == 1
        clock += 400 * DAY  # the camera was off for so long
        later = NOON + timedelta(days=400)
        assert position(ask(linker, still(2, taken=later))) == 0
        far = later + timedelta(days=500)
        assert ask(linker, still(3, taken=far, allow_jump=True))["frame"] == 3
        back = ask(linker, still(4, taken=later + timedelta(seconds=9)))
        assert back["detections"][0]["previous_detection_id"] == ("2/0" if options else "3/0")


@pytest.mark.parametrize("ahead", [90, 3600, DAY, 20 * DAY])
@pytest.mark.parametrize("wrong", [1, 3])
def test_a_clock_that_jumps_ahead_and_back_closes_no_track(
    tmp_path: Path, ahead: float, wrong: int
) -> None:
    with live(tmp_path / "s", GAP) as linker:
        for number in range(3):
            ask(linker, still(number, taken=NOON + timedelta(seconds=number)))
        for number in range(3, 3 + wrong):
            answer = ask(linker, still(number, taken=NOON + timedelta(seconds=number + ahead)))
            assert position(answer) == number - 3  # a track of its own
        number = 3 + wrong
        back = ask(linker, still(number, taken=NOON + timedelta(seconds=number)))
        assert back["detections"][0]["track_id"] == "cam:00000"
        assert position(back) == 3
        assert back["tracks_open"] == 2


@pytest.mark.parametrize("options", [GAP.replace(max_gap_seconds=2.5), GAP])
def test_where_time_only_rises_the_links_are_those_of_the_whole(
    tmp_path: Path, options: LinkOptions
) -> None:
    scene = crowd(frames=25)
    random_gaps = np.random.default_rng(5).choice([0.0, 1.0, 2.0, 70.0], 25).cumsum()
    whole = link(*scene[:3], diagonal_px=1000.0, seconds=random_gaps[scene[0]], options=options)
    rows = []
    with live(tmp_path / "s", options) as linker:
        for frame, seconds in zip(frames_of(scene), random_gaps, strict=True):
            taken = NOON + timedelta(seconds=seconds)
            rows += ask(linker, replace(frame, taken=taken))["detections"]
        state = linker.state("deep/er")
    assert [row["track_id"] for row in rows] == [f"deep/er:{track:05d}" for track in whole.track]
    assert 0 < (whole.previous >= 0).sum() < len(rows)
    assert state is not None
    assert state.tracks is not None
    assert (random_gaps[-1] - random_gaps[state.tracks.frame] <= 60 + 5 * 70).all()


def disk(file: Path) -> int:
    """Bytes of the file and of what SQLite keeps beside it."""
    return sum(each.stat().st_size for each in file.parent.glob(file.name + "*"))


def test_many_large_sequences_stay_within_the_total(tmp_path: Path) -> None:
    file, caps = tmp_path / "s", Caps(total_bytes=3_000_000)
    with live(file, caps=caps) as linker:
        refused = 0
        for number in range(30):
            try:
                ask(linker, still(0, count=100, dim=1000, sequence=f"s{number}"))
            except LinkFullError:
                refused += 1
        assert 15 < refused < 30
        assert linker.store.usage().bytes <= caps.total_bytes
        # The cameras that film are not pushed out, and one that is over makes room.
        assert ask(linker, still(1, count=100, dim=1000, sequence="s0"))["tracks_open"] == 100
        linker.delete("s1")
        ask(linker, still(0, count=100, dim=1000, sequence="s29"))
    assert disk(file) <= caps.total_bytes


def test_the_idlest_are_closed_for_others_and_keep_their_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 1e9
    caplog.set_level(logging.WARNING, logger="onepass.link")
    with live(tmp_path / "s", caps=Caps(total_bytes=1_500_000), now=lambda: clock) as linker:
        for name in ("old", "older than others", "films"):
            ask(linker, still(0, count=100, dim=1000, sequence=name))
        clock += IDLE_SECONDS + 1
        ask(linker, still(1, count=100, dim=1000, sequence="films"))
        answer = linker.link(
            still(0, count=100, dim=1000, sequence="new"),
            request_id="new",
            digest=b"",
            fingerprint="model",
        )
        assert (answer.closed, answer.removed) == (1, 0)
        assert "'old'" in caplog.text
        back = ask(linker, still(1, sequence="old"))
        assert back["restarted"]
        assert back["detections"][0]["track_id"] == "old:00100"
        assert ask(linker, still(2, dim=1000, sequence="films"))["restarted"] is None


def test_the_number_of_sequences_is_bounded(tmp_path: Path) -> None:
    clock = 1e9
    with live(tmp_path / "s", caps=Caps(sequences=20), now=lambda: clock) as linker:
        for number in range(20):
            ask(linker, still(0, sequence=f"s{number}"))
            clock += 1
        for number in range(20, 50):
            with pytest.raises(LinkFullError):
                ask(linker, still(0, sequence=f"s{number}"))
        assert ask(linker, still(1, sequence="s3"))["frame"] == 1
        clock += IDLE_SECONDS - 14  # five are idle by now
        for number in range(20, 25):
            ask(linker, still(0, sequence=f"s{number}"))
        with pytest.raises(LinkFullError):
            ask(linker, still(0, sequence="s25"))
        assert linker.store.usage().sequences == 20
        there = [n for n in range(25) if linker.state(f"s{n}")]
        assert there == [3, *range(6, 25)]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (PRESETS["online"], 300),
        (LinkOptions(appearance="gallery"), 40),
        (LinkOptions(max_gap_frames=1000), 60),
    ],
)
def test_one_sequence_is_bounded_and_can_go_on(
    tmp_path: Path, options: LinkOptions, count: int
) -> None:
    caps = Caps(sequence_bytes=1_000_000)
    random = np.random.default_rng(1)
    with live(tmp_path / "s", options, caps=caps) as linker:
        refused = 0
        for number in range(20):
            vectors = random.normal(size=(count, 1000)).astype(np.float32)
            boxes = random.uniform(0, 90, (count, 2))
            frame = still(number, count=count, vectors=vectors, boxes=np.c_[boxes, boxes + 1])
            try:
                ask(linker, frame)
            except FrameError:
                refused += 1
            state = linker.state("cam")
            assert state is None or state.size <= caps.sequence_bytes
        assert refused
        assert ask(linker, still(2000, dim=1000))["tracks_open"] >= 1
        assert linker.store.usage().bytes < 3 * caps.sequence_bytes


def test_large_answers_are_kept_as_far_as_they_fit(tmp_path: Path) -> None:
    with live(tmp_path / "s", caps=Caps(sequence_bytes=200_000)) as linker:
        for number in range(KEPT_ANSWERS):
            frame = still(number, count=20, dim=8)
            ask(linker, replace(frame, ids=[f"{number}-{at}" + "x" * 400 for at in range(20)]))
            state = linker.state("cam")
            assert state is not None
            assert state.size <= 200_000
        names = [f"cam {number} None" for number in range(KEPT_ANSWERS)]
        kept = [linker.stored_answer("cam", name, name.encode()) is not None for name in names]
        assert kept == sorted(kept)
        assert 3 <= sum(kept) < KEPT_ANSWERS


def test_what_is_removed_is_given_back_to_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "s"
    with live(file) as linker:
        for number in range(10):
            ask(linker, still(0, count=100, dim=1000, sequence=f"s{number}"))
        for number in range(10):
            linker.delete(f"s{number}")
        ask(linker, still(0))
    assert disk(file) < 100_000


FORMAT_1 = (
    "CREATE TABLE sequences (name TEXT PRIMARY KEY, revision INTEGER NOT NULL, touched REAL NOT "
    "NULL, head TEXT NOT NULL, tracks BLOB)",
    "CREATE TABLE answers (sequence TEXT NOT NULL, request_id TEXT NOT NULL, revision INTEGER NOT "
    "NULL, digest BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (sequence, request_id))",
    "CREATE INDEX answers_by_age ON answers (sequence, revision)",
    "PRAGMA user_version = 1",
)


def test_a_file_of_format_1_goes_on_and_is_vacuumed(tmp_path: Path) -> None:
    with live(tmp_path / "new") as linker:
        ask(linker, still(0))
    with closing(sqlite3.connect(tmp_path / "new")) as new:
        sequence = new.execute("SELECT name, revision, touched, head, tracks FROM sequences")
        answer = new.execute("SELECT sequence, request_id, revision, digest, body FROM answers")
        rows, answers = sequence.fetchall(), answer.fetchall()
    with closing(sqlite3.connect(tmp_path / "old", isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        for statement in FORMAT_1:
            old.execute(statement)
        old.executemany("INSERT INTO sequences VALUES (?, ?, ?, ?, ?)", rows)
        old.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", answers)
        old.execute("INSERT INTO answers VALUES ('x', 'x', 1, x'', zeroblob(1000000))")
        old.execute("DELETE FROM answers WHERE sequence = 'x'")
    with live(tmp_path / "old") as linker:
        assert linker.stored_answer("cam", "cam 0 None", b"cam 0 None")
        assert position(ask(linker, still(1))) == 1
    assert disk(tmp_path / "old") < 100_000
    with closing(sqlite3.connect(tmp_path / "old")) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        assert old.execute("SELECT checksum IS NULL FROM sequences").fetchall() == [(0,)]


DAMAGES = {
    "a part of the tracks": "tracks = substr(tracks, 1, 200)",
    "no tracks": "tracks = x''",
    "tracks of another kind": "tracks = 'text'",
    "head that is no JSON": "head = '{'",
    "head with another frame": """head = replace(head, '"frame":0', '"frame":9')""",
    "head that is no text": "head = CAST(x'ff00fe' AS TEXT)",
    "head without an id": """head = replace(head, '["0/0"]', '[]'), checksum = NULL""",
    "unchecked tracks": "tracks = substr(tracks, 1, 200), checksum = NULL",
    "unchecked head": "head = '[]', checksum = NULL",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_sequence_is_named_and_can_begin_anew(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "s"
    with live(file) as linker:
        ask(linker, still(0))
        ask(linker, still(0, sequence="other"))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"UPDATE sequences SET {damage} WHERE name = 'cam'")  # noqa: S608
    with live(file) as linker:
        for _ in range(2):
            with pytest.raises(LinkDamagedError, match="'cam'"):
                ask(linker, still(1))
            with pytest.raises(LinkDamagedError, match="'cam'"):
                linker.state("cam")
        assert position(ask(linker, still(1, sequence="other"))) == 1
        assert linker.delete("cam")
        assert ask(linker, still(1))["detections"][0]["track_id"] == "cam:00000"


def test_a_damaged_answer_is_not_given(tmp_path: Path) -> None:
    with live(tmp_path / "s") as linker:
        ask(linker, still(0))
        with closing(sqlite3.connect(tmp_path / "s")) as connection, connection:
            connection.execute("UPDATE answers SET body = replace(body, '0/0', '0/1')")
        with pytest.raises(LinkDamagedError, match="'cam'"):
            ask(linker, still(0))
        assert ask(linker, still(1))["frame"] == 1


def test_single_flipped_bits_change_no_answer(tmp_path: Path) -> None:
    """Wherever they are: a flip changes nothing, or what reads it says so."""
    file, frames, names = tmp_path / "s", frames_of(crowd(frames=12)), ("deep/er", "b")

    def read(path: Path) -> list[Any]:
        answers: list[Any] = []
        with live(path) as linker:
            for name in names:
                next_frame = replace(frames[11], sequence=name)
                for step in (
                    lambda name=name: linker.stored_answer(name, f"{name} 10 None", b"..."),
                    lambda name=name: str(linker.state(name)),
                    lambda frame=next_frame: ask(linker, frame),
                ):
                    try:
                        answers.append(step())
                    except (LinkStateError, ClashError) as error:
                        answers.append(type(error))
        return answers

    with live(file, now=lambda: 2e9) as linker:
        for frame in frames[:11]:
            for name in names:
                ask(linker, replace(frame, sequence=name))
    whole = file.read_bytes()
    (tmp_path / "copy").write_bytes(whole)
    expected, dice, named = read(tmp_path / "copy"), random.Random(3), 0  # noqa: S311
    pages = len(whole) // 4096
    for case in range(150):
        # Half of them where pages keep their structure, which is little of the file.
        place = (
            dice.randrange(len(whole)) if case % 2 else dice.randrange(pages) * 4096 + case % 150
        )
        damaged = bytearray(whole)
        damaged[place] ^= 1 << dice.randrange(8)
        copy = tmp_path / f"copy{case}"
        copy.write_bytes(damaged)
        for answer, right in zip(read(copy), expected, strict=True):
            assert answer == right or answer in (LinkDamagedError, LinkStateError), place
            named += answer != right
    assert named > 50


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    with live(tmp_path / "s") as linker:
        for number in range(20):
            ask(linker, still(0, sequence=f"s{number}"))
    data = bytearray((tmp_path / "s").read_bytes())
    data[4096:8192] = os.urandom(4096)
    (tmp_path / "s").write_bytes(data)
    with live(tmp_path / "s") as linker, pytest.raises(LinkStateError, match="remove the file"):
        ask(linker, still(1, sequence="s3"))
