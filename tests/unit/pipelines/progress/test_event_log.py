"""What stages report: added up, written as events, read again."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from common.errors import RunError
from pipelines.progress import event_log as events
from pipelines.progress.counters import Block, Counts, ProgressSnapshot, Stopwatch
from pipelines.progress.event_log import EventLog, Measures, read_events
from pipelines.progress.profile import sessions_of


def block(stage: str, began: float, seconds: float, first_row: int, lane: str = "n:1") -> Block:
    return Block(stage, lane, began, seconds, 10, first_row, 1000 + first_row, {})


def session(blocks: list[Block], seconds: float) -> dict[str, Any]:
    measures = Measures()
    for each in blocks:
        measures.add(each)
    return measures.session(0, seconds)


def test_blocks_done_again_are_not_rows_again() -> None:
    blocks = [
        block("decode", 10, 1, 0),
        block("forward", 11, 3, 0)._replace(errors={"gone": 1}),
        block("forward", 16, 2, 10),
        block("forward", 18, 2, 10)._replace(again=True, errors={"gone": 1}),
        block("write", 20, 1, 0, "n:2"),
    ]
    facts = session(blocks, 12)
    decode, forward, write = facts["stages"]
    assert (decode.rows, decode.seconds, decode.processes) == (10, 1, 1)
    assert (forward.rows, forward.blocks, forward.again, forward.seconds) == (20, 3, 1, 7)
    assert write.memory == 1000
    assert (facts["start_seconds"], facts["work_seconds"]) == (10, 10)
    assert facts["waited"] == pytest.approx(0.2)  # from 14 to 16 of the ten seconds from 10 to 20
    assert facts["limit"] == "forward"
    assert session(blocks, 21)["limit"] == "start-up"


OVERLAPPING = [block("forward", number, 2, 10 * number) for number in range(5)]
STARVED = [
    *OVERLAPPING,
    block("forward", 26, 2, 60),
    *(block("decode", number, 5, 10 * number, "n:7") for number in range(5)),
]
LOADED = [
    block("load", 0, 4, -1)._replace(rows=0),
    block("decode", 1, 7, 0, "n:2"),
    block("forward", 8, 2, 0),
]


@pytest.mark.parametrize(
    ("blocks", "waited", "limit"),
    [
        ([], None, None),
        (OVERLAPPING, 0, "forward"),  # calls of one actor that overlap are no waiting
        (STARVED, 20 / 28, "decode"),
        (LOADED, 4 / 6, "decode"),  # an actor waits from when its model is loaded
        ([*LOADED, block("write", 10, 9, 0, "n:3")], 4 / 6, "write"),
        ([block("decode", 0, 1, 0), block("forward", 1, 1, 0), block("forward", 7, 1, 9)],
         5 / 8, "waiting"),
    ],
)  # fmt: skip
def test_waiting_and_the_limit(
    blocks: list[Block], waited: float | None, limit: str | None
) -> None:
    facts = session(blocks, 10)
    assert facts["waited"] == pytest.approx(waited)
    assert facts["limit"] == limit


def test_sessions_follow_one_another_and_are_read_as_profiles(tmp_path: Path) -> None:
    for number in (1, 2):
        log = EventLog(tmp_path)
        assert log.session == number
        log.add("session", actors=1, started=3.0)
        log.snapshot(
            ProgressSnapshot(Counts(), [block("forward", 5, 1, 0), block("forward", 4, 1, 10)])
        )
        log.add("phase", name="checking")
        if number == 2:
            stages = [stage.model_dump() for stage in log.measures.stages]
            log.add("end", outcome="finished", seconds=8.0, stages=stages, errors={"gone": 2})
    lines = read_events(tmp_path)
    assert [line["event"] for line in lines if line["session"] == 2] == [
        *("block", "block", "session", "phase", "end")  # by their time
    ]
    written = [line for line in lines if line["event"] == "block"]
    assert [line["first_row"] for line in written] == [10, 0, 10, 0]
    assert written[0].keys() >= {"lane", "stage", "seconds", "rows", "memory", "at"}
    assert "again" not in written[0]
    # As earlier versions wrote them.
    snapshot = {"event": "look", "session": 1, "at": 9.0, "answered": 20, "driver_memory": 10**8}
    text = "".join(json.dumps(line) + "\n" for line in [*lines[:3], snapshot, *lines[3:]])
    (tmp_path / "events.jsonl").write_text(text)
    killed, finished = (each.profile for each in sessions_of(tmp_path))
    assert (killed.outcome, killed.rows, killed.errors) == ("killed", 20, {})
    assert (finished.outcome, finished.seconds, finished.errors) == ("finished", 8, {"gone": 2})
    for profile in (killed, finished):
        assert (profile.start_seconds, profile.work_seconds, profile.waited) == (1, 2, 0)
        assert (profile.stages[0].rows, profile.rows_a_second) == (20, 10)


def test_every_flipped_bit_is_named(tmp_path: Path) -> None:
    """Also that of a line feed, which becomes another end of a line."""
    log = EventLog(tmp_path)
    log.add("session", actors=1)
    log.add("phase", name="checking")
    whole = (tmp_path / "events.jsonl").read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "events.jsonl").write_bytes(damaged)
        with pytest.raises(RunError, match=r"events\.jsonl"):
            read_events(tmp_path)


def test_a_long_session_keeps_some_blocks_and_adds_up_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_BLOCKS", 100)
    log = EventLog(tmp_path)
    for number in range(1000):
        log.snapshot(ProgressSnapshot(Counts(), [block("forward", number, 1, number)]))
    log.add("end")
    kept = [line["at"] for line in read_events(tmp_path) if line["event"] == "block"]
    assert 50 <= len(kept) <= 100
    assert len({b - a for a, b in pairwise(kept)}) == 1  # evenly
    assert log.measures.stages[0].rows == 10_000


def test_a_disk_that_refuses_costs_the_events_and_says_so(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone")
    log.add("session")
    assert log.lost is not None
    log.add("end")


@pytest.mark.parametrize(
    "text", [None, "", "{\n", "[]\n", '{"event": "end"}\n', '{"event": "end", "session": 1}\n']
)
def test_events_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "events.jsonl").write_text(text)
    with pytest.raises(RunError):
        sessions_of(tmp_path)


def test_a_stopwatch_does_not_count_its_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("pipelines.progress.counters.time.perf_counter", lambda: now)
    monkeypatch.setattr("pipelines.progress.counters.time.time", lambda: 5.0 + now)
    watch = Stopwatch("decode", "here:3")
    now = 101.0
    watch.pause()
    now = 150.0
    watch.pause()  # a second time changes nothing
    watch.resume()
    now = 150.25
    watch.pause()
    now = 170.0
    watch.resume()
    now = 170.5  # runs on until the block is through
    timed = watch.block(pa.table({"row_id": [7], "error": [None]}))
    assert timed.seconds == pytest.approx(1.75)
    assert (timed.began, timed.lane, timed.stage) == (105.0, "here:3", "decode")
    now = 180.0
    assert watch.block(None).seconds == pytest.approx(1.75)  # which ends it


def test_a_stopwatch_counts_the_errors_of_the_rows() -> None:
    rows = pa.table({"row_id": [7, 8, 9], "error": [None, "a: b [c]", "a: d [e]"]})
    counted = Stopwatch("forward").block(rows)
    assert (counted.rows, counted.first_row, counted.errors) == (3, 7, {"a": 2})
    assert counted.memory > 10**6
    assert Stopwatch("decode").block(rows).errors == {}
