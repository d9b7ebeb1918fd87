"""What a run will take: costs from a measured sample, and the formula that makes hours of them.

Pure arithmetic. Where there is no GPU an actor decodes a block and then answers it, so a
lane's seconds add up; with GPUs decode, forward and write are stages of their own, and the
slowest sets the rate. All costs are of lanes that worked at the same time, because cores are
shared: a lane alone is up to twice as fast.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from pipelines.events.board import Block
from pipelines.events.measures import Limit
from pipelines.records import Record

_SIMULATED = 50_000  # blocks; of more, the last ones decide nothing


class Costs(Record):
    """Seconds, as measured while all lanes were at work."""

    fused: bool  # an actor decodes for itself
    decode: float  # of a decoding process, a row
    forward: float  # of an actor, a row
    write: float  # of a writing process, a row
    hand_over: float  # of an actor, a block, beside decode and forward; 0 where calls overlap
    # From the beginning of the pass, for each actor: what starting took it, so that from then
    # on it is as if it had always worked at full speed.
    ready: tuple[float, ...]
    last: float  # from the last answer to the end of the pass


class Lanes(Record):
    """How many work at a time."""

    actors: int
    decoders: int  # of no meaning where actors decode for themselves
    writers: int


class Pace(Record):
    """What a pass comes to."""

    decode_rate: float  # rows a second that the stage could do
    forward_rate: float
    write_rate: float
    rate: float  # rows a second once everything runs
    limit: Limit
    seconds: float  # of the whole pass, with its start and its end
    cores_missing: int  # more decoding cores that the actors could be fed by; 0: none


def pace(costs: Costs, lanes: Lanes, rows: int, block_rows: int) -> Pace:
    """The pass over ``rows`` rows in blocks of ``block_rows`` on ``lanes``."""
    write_rate = lanes.writers / costs.write if costs.write else math.inf
    blocks = -(-rows // block_rows)
    ready = [costs.ready[lane % len(costs.ready)] for lane in range(lanes.actors)]
    if costs.fused:
        each = costs.decode + costs.forward
        own = lanes.actors / (each + costs.hand_over / block_rows)
        rates = {
            "decode": lanes.actors / costs.decode if costs.decode else math.inf,
            "forward": lanes.actors / costs.forward,
        }
        limit: Limit = "decode" if costs.decode > costs.forward else "forward"
        missing = 0
        sizes = [block_rows] * (blocks - 1) + [rows - block_rows * (blocks - 1)]
        spent = [costs.hand_over + size * each for size in sizes[:_SIMULATED]]
        worked = (
            makespan(ready, spent)
            if blocks <= _SIMULATED
            else fmean(ready) + rows / own + (costs.hand_over + block_rows * each) / 2
        )
    else:
        rates = {
            "decode": lanes.decoders / costs.decode if costs.decode else math.inf,
            "forward": lanes.actors / costs.forward,
        }
        own = min(rates.values())
        limit = "decode" if rates["decode"] < rates["forward"] else "forward"
        short = rates["forward"] - rates["decode"]
        missing = max(0, math.ceil(short * costs.decode - 1e-9)) if short > 0 else 0
        tail = min(rows, block_rows) * costs.forward / 2
        worked = fmean(ready) + rows / own + tail
    if write_rate < own:
        limit = "write"
        worked = fmean(ready) + rows / write_rate
    return Pace(
        decode_rate=rates["decode"],
        forward_rate=rates["forward"],
        write_rate=write_rate,
        rate=min(own, write_rate),
        limit=limit,
        seconds=worked + costs.last,
        cores_missing=missing,
    )


def makespan(ready: Sequence[float], blocks: Sequence[float]) -> float:
    """When the last block ends, if whoever is free takes the next.

    Args:
        ready: when each lane can begin, in seconds.
        blocks: seconds of each block, in the order in which they are taken.
    """
    lanes = list(ready)
    heapq.heapify(lanes)
    last = 0.0
    for seconds in blocks:
        ended = heapq.heappop(lanes) + seconds
        last = max(last, ended)
        heapq.heappush(lanes, ended)
    return last


class _Turn(NamedTuple):
    """A lane's time with one block: from its decoding, or its call, to its answer."""

    began: float
    ended: float
    rows: int
    decode: float
    forward: float


def costs_of(blocks: Sequence[Block], began: float, ended: float) -> Costs:
    """The costs of a sample's pass, which lasted from ``began`` to ``ended``.

    What an actor does first is left out, and what it does when others have run out of work.

    Raises:
        ValueError: nothing was answered.
    """
    forward = [block for block in blocks if block.stage == "forward"]
    if not forward:
        raise ValueError("nothing was answered")
    decode = [block for block in blocks if block.stage == "decode"]
    write = [block for block in blocks if block.stage == "write"]
    fused = bool({block.lane for block in decode} & {block.lane for block in forward})
    lanes = _turns(forward, {b.first_row: b for b in decode} if fused else {})
    kept = _under_load(lanes)
    rows = sum(turn.rows for turn in kept)
    decoding = sum(turn.decode for turn in kept) / rows
    hand_over = 0.0
    if fused:
        forwarding = sum(turn.forward for turn in kept) / rows
        gaps = [b.began - a.ended for turns in lanes for a, b in pairwise(turns)]
        hand_over = max(0.0, fmean(gaps)) if gaps else 0.0
    else:
        loaded = set(kept)
        forwarding = sum(_union([t for t in turns if t in loaded]) for turns in lanes) / rows
        later = _later(decode)
        decoding = sum(b.seconds for b in later) / max(1, sum(b.rows for b in later))
    each = decoding + forwarding
    ready = []
    for turns in lanes:
        if fused:
            whole = [turn for turn in turns if turn in kept] or turns
            upto = turns[: turns.index(whole[-1]) + 1]
            work = sum(turn.rows * each + hand_over for turn in upto)
            ready.append(max(0.0, upto[-1].ended - work - began))
        else:
            ready.append(max(0.0, turns[0].ended - turns[0].rows * forwarding - began))
    writing = _later(write)
    return Costs(
        fused=fused,
        decode=decoding,
        forward=forwarding,
        write=sum(b.seconds for b in writing) / max(1, sum(b.rows for b in writing)),
        hand_over=hand_over,
        ready=tuple(ready),
        last=max(0.0, ended - max(block.began + block.seconds for block in forward)),
    )


def _turns(forward: Sequence[Block], decoded: dict[int, Block]) -> list[list[_Turn]]:
    """Each forward lane's turns, in order."""
    lanes: dict[str, list[_Turn]] = {}
    for block in sorted(forward, key=lambda block: block.began):
        own = decoded.get(block.first_row)
        turn = _Turn(
            began=own.began if own else block.began,
            ended=block.began + block.seconds,
            rows=block.rows,
            decode=own.seconds if own else 0.0,
            forward=block.seconds,
        )
        lanes.setdefault(block.lane, []).append(turn)
    return list(lanes.values())


def _under_load(lanes: Sequence[Sequence[_Turn]]) -> list[_Turn]:
    """Turns in which all lanes were at work; where there is none, as near to it as there is."""
    warm = max(turns[0].ended for turns in lanes)
    dry = min(turns[-1].ended for turns in lanes)
    later = [turn for turns in lanes for turn in turns[1:]]
    loaded = [turn for turn in later if turn.began >= warm and turn.ended <= dry]
    return loaded or later or [turn for turns in lanes for turn in turns]


def _later(blocks: Sequence[Block]) -> list[Block]:
    """All but each process's first, which pays for imports; all where there is no other."""
    seen: set[str] = set()
    later = []
    for block in sorted(blocks, key=lambda block: block.began):
        if block.lane in seen:
            later.append(block)
        seen.add(block.lane)
    return later or list(blocks)


def _union(turns: Sequence[_Turn]) -> float:
    """Seconds in which at least one of a lane's calls ran: two may overlap."""
    total, until = 0.0, -math.inf
    for turn in sorted(turns, key=lambda turn: turn.began):
        total += max(0.0, turn.ended - max(turn.began, until))
        until = max(until, turn.ended)
    return total
