"""What stages report: added up, told as events, read again."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.errors import RunError
from pipelines.events import log as events
from pipelines.events.board import Block, Board, Look, Stopwatch, Tally
from pipelines.events.log import EventLog, read_events
from pipelines.events.measures import Measures


def block(stage: str, began: float, seconds: float, first_row: int, lane: str = "n:1") -> Block:
    return Block(stage, lane, began, seconds, 10, first_row, 1000 + first_row, {})


def test_the_board_knows_what_was_done_again() -> None:
    board = Board()
    first = block("forward", 0, 1, 0)._replace(errors={"missing file": 2})
    for each in (first, first, block("forward", 1, 1, 10), block("write", 2, 1, 0)):
        board.block(each)
    tally, blocks, _ = board.look()
    assert (tally.failed, tally.again, tally.written) == (2, 1, 10)
    assert [each.again for each in blocks] == [False, True, False, False]
    assert board.look().blocks == []


def test_a_stopwatch_tells_the_errors_of_the_rows() -> None:
    rows = pa.table({"row_id": [7, 8, 9], "error": [None, "a: b [c]", "a: d [e]"]})
    told = Stopwatch("forward").block(rows)
    assert (told.rows, told.first_row, told.errors) == (3, 7, {"a": 2})
    assert told.memory > 10**6
    assert Stopwatch("decode").block(rows).errors == {}


def test_blocks_done_again_are_not_rows_again() -> None:
    seen = Measures()
    for each in (
        block("decode", 10, 1, 0),
        block("forward", 11, 3, 0)._replace(errors={"gone": 1}),
        block("forward", 16, 2, 10),
        block("forward", 18, 2, 10)._replace(again=True, errors={"gone": 1}),
        block("write", 20, 1, 0, "n:2"),
    ):
        seen.add(each)
    decode, forward, write = seen.stages
    assert (decode.rows, decode.seconds, decode.processes) == (10, 1, 1)
    assert (forward.rows, forward.blocks, forward.again, forward.seconds) == (20, 3, 1, 7)
    assert write.memory == 1000
    assert seen.errors == {"gone": 1}
    assert seen.work_seconds == 10
    assert seen.waited == pytest.approx(0.2)  # from 14 to 16 of the ten seconds from 10 to 20
    assert seen.limit(12) == "forward"
    assert seen.limit(21) == "start-up"
    assert Measures().limit(5) is None


def test_overlapping_calls_of_an_actor_are_no_waiting() -> None:
    seen = Measures()
    for number in range(5):
        seen.add(block("forward", number, 2, 10 * number))
    assert seen.waited == 0
    assert seen.limit(6) == "forward"
    seen.add(block("forward", 26, 2, 60))
    for number in range(5):
        seen.add(block("decode", number, 5, 10 * number, "n:7"))
    assert seen.waited == pytest.approx(20 / 28)
    assert seen.limit(30) == "decode"


def test_an_actor_waits_from_when_its_model_is_loaded() -> None:
    seen = Measures()
    for each in (
        block("load", 0, 4, -1, "n:1")._replace(rows=0),
        block("decode", 1, 7, 0, "n:2"),
        block("forward", 8, 2, 0),
    ):
        seen.add(each)
    assert seen.waited == pytest.approx(4 / 6)
    assert seen.limit(10) == "decode"
    assert (seen.stages[0].name, seen.stages[0].rows) == ("load", 0)


def test_sessions_follow_one_another(tmp_path: Path) -> None:
    for number in (1, 2):
        log = EventLog(tmp_path)
        assert log.session == number
        log.add("session", planned=20)
        blocks = [block("forward", 5, 1, 0), block("forward", 4, 1, 10)]
        log.look(Look(Tally(decoded=20, answered=20), blocks))
        log.add("end", outcome="finished")
    lines = read_events(tmp_path)
    assert [line["event"] for line in lines if line["session"] == 2] == [
        *("block", "block", "session", "look", "end")  # by their time
    ]
    told = [line for line in lines if line["event"] == "block"]
    assert [line["first_row"] for line in told] == [10, 0, 10, 0]
    assert told[0].keys() >= {"lane", "stage", "seconds", "rows", "memory", "at"}
    assert "again" not in told[0]


def test_a_long_session_keeps_some_blocks_and_adds_up_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_BLOCKS", 100)
    log = EventLog(tmp_path)
    for number in range(1000):
        log.look(Look(Tally(), [block("forward", number, 1, number)]))
    log.add("end")
    kept = [line["at"] for line in read_events(tmp_path) if line["event"] == "block"]
    assert 50 <= len(kept) <= 100
    assert len({b - a for a, b in pairwise(kept)}) == 1  # evenly
    assert log.measures.stages[0].rows == 10_000


def test_a_disk_that_refuses_costs_the_events_and_says_so(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone")
    log.add("session")
    assert log.lost is not None
    assert "events.jsonl could not be written: No such file" in log.lost
    log.add("end")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no events\.jsonl"):
        read_events(tmp_path)
    (tmp_path / "events.jsonl").write_text(json.dumps({"event": "end", "session": 1}) + "\n{\n")
    with pytest.raises(RunError, match=r"events\.jsonl, line 2 is damaged; delete the file"):
        read_events(tmp_path)


def test_a_stopwatch_does_not_count_its_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("pipelines.events.board.time.perf_counter", lambda: now)
    monkeypatch.setattr("pipelines.events.board.time.time", lambda: 5.0 + now)
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
    told = watch.block(pa.table({"row_id": [7], "error": [None]}))
    assert told.seconds == pytest.approx(1.75)
    assert (told.began, told.lane, told.stage) == (105.0, "here:3", "decode")
    now = 180.0
    assert watch.block(None).seconds == pytest.approx(1.75)  # which ends it


def test_a_stopwatch_that_never_runs_again_tells_what_it_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1.0
    monkeypatch.setattr("pipelines.events.board.time.perf_counter", lambda: now)
    watch = Stopwatch("forward")
    watch.pause()
    now = 9.0
    told = watch.block(None)
    assert (told.seconds, told.rows, told.first_row) == (0.0, 0, -1)
