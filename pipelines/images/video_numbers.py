"""Numbers of decoded frames, also where some are lost: a lost frame keeps its number, as an error.

After damage a decoder goes on with pictures that build on what is missing, and says nothing. So a
frame is damaged as well if anything was damaged between the keyframe that it starts from and itself.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.stream import VideoStream

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass
class Packets:
    """What the packets of a video say, in the file's order."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    pos: list[int | None] = field(default_factory=list)  # bytes from the file's start
    key: list[bool] = field(default_factory=list)
    is_plain: bool = True  # nothing is cut off by an edit list, and nothing changes on the way

    def add(self, packet: Packet[VideoStream]) -> None:
        """Note the next packet."""
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.pos.append(packet.pos)
        self.key.append(packet.is_keyframe)
        if packet.is_discard or packet.has_sidedata("new_extradata"):
            self.is_plain = False

    def order(self) -> Ints | None:
        """The packets by time; None where time stamps are missing or occur twice."""
        if not _is_unique(self.pts):
            return None
        return np.argsort(np.array(self.pts, np.int64), kind="stable")

    def names(self) -> tuple[Literal["pos", "pts"], Ints] | None:
        """What tells each packet, whichever was read before it; None: nothing does."""
        if _is_unique(self.pos) and -1 not in self.pos:
            return "pos", np.array(self.pos, np.int64)
        return ("pts", np.array(self.pts, np.int64)) if _is_unique(self.pts) else None


def _is_unique(values: list[int | None]) -> bool:
    return None not in values and len(set(values)) == len(values)


class Output(NamedTuple):
    """A frame that came out of the decoder."""

    packet: int
    is_key: bool
    is_corrupt: bool
    checksum: int


class Numbered(NamedTuple):
    """The frames of a video by number."""

    packet: Ints  # [N] the packet of each
    output: Ints  # [outputs] the number of each frame that came out, in order
    damaged: Flags  # [N]


def number_frames(
    packets: Packets,
    outputs: list[Output],
    refused: dict[int, int],
    *,
    one_each: bool,
    is_timed: bool,
) -> Numbered:
    """Number the frames of a full decode.

    Args:
        packets: of the video.
        outputs: frames that came out, in order.
        refused: packets that the decoder refused, and how many frames had come out by then.
        one_each: every packet stands for a frame, so that each without one is a lost frame.
        is_timed: time stamps are stored, so that they tell where a lost frame was.
    """
    # What comes before the first keyframe of a recording cut off at its beginning is no frame.
    first_key = packets.key.index(True) if any(packets.key) and not one_each else 0
    starts = {packet: at for packet, at in refused.items() if packet >= first_key}
    starts |= {out.packet: at for at, out in enumerate(outputs) if out.is_corrupt}
    out = np.array([output.packet for output in outputs], np.int64)
    if not starts:
        return Numbered(out, np.arange(len(out)), np.zeros(len(out), np.bool_))
    next_key = _next_keys(packets.key)
    lost = _lost(starts, set(out.tolist()), next_key, one_each=one_each)
    stamps = [packets.pts[packet] for packet in [*out.tolist(), *lost]]
    known = np.array([stamp for stamp in stamps if stamp is not None], np.int64)
    if is_timed and len(known) == len(stamps) and (np.diff(known[: len(out)]) > 0).all():
        return _by_time(packets.key, out, lost, known, starts)
    return _by_group(outputs, lost, starts, next_key)


def depends_on_damage(packet: Ints, keys: Ints, damage: list[int]) -> Flags:
    """Whether anything was damaged between each frame's keyframe and itself.

    Args:
        packet: of each frame ``[N]``.
        keys: numbers of keyframes, ascending.
        damage: packets that are damaged.
    """
    key = np.searchsorted(keys, np.arange(len(packet)), side="right") - 1
    begin = np.where(key < 0, 0, packet[keys[key]] if len(keys) else 0)
    ordered = np.sort(np.array(damage, np.int64))
    until = np.searchsorted(ordered, packet, side="right")
    return np.asarray(until > np.searchsorted(ordered, begin, side="left"))


def _next_keys(key: list[bool]) -> list[int]:
    """For each packet the next keyframe's after it; the number of packets where there is none."""
    after = [len(key)] * len(key)
    for packet in range(len(key) - 2, -1, -1):
        after[packet] = packet + 1 if key[packet + 1] else after[packet + 1]
    return after


def _lost(
    starts: dict[int, int], out: set[int], next_key: list[int], *, one_each: bool
) -> list[int]:
    """Packets whose frame did not come out because of damage."""
    if one_each:
        return [packet for packet in range(len(next_key)) if packet not in out]
    near = {packet for start in starts for packet in range(start, next_key[start])}
    return sorted(near - out)


def _by_time(
    key: list[bool], out: Ints, lost: list[int], stamps: Ints, starts: dict[int, int]
) -> Numbered:
    order = np.argsort(stamps, kind="stable")
    packet = np.concatenate([out, np.array(lost, np.int64)])[order]
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    keys = np.flatnonzero(np.array(key, np.bool_)[packet])
    damaged = depends_on_damage(packet, keys, [*starts, *lost])
    return Numbered(packet, number[: len(out)], damaged)


def _by_group(
    outputs: list[Output], lost: list[int], starts: dict[int, int], next_key: list[int]
) -> Numbered:
    """Without times nobody knows where in its group a frame is lost: before the next keyframe."""
    keys = [at for at, output in enumerate(outputs) if output.is_key]
    key_packets = [outputs[at].packet for at in keys]

    def group_end(packet: int) -> int:
        key = bisect_right(key_packets, next_key[packet] - 1)
        return keys[key] if key < len(keys) else len(outputs)

    damaged_out = np.zeros(len(outputs) + 1, np.bool_)
    positions = np.array([output.packet for output in outputs])
    for packet, at in starts.items():
        damaged_out[at : group_end(packet)] = True
        damaged_out[:-1] |= (positions >= packet) & (positions < next_key[packet])
    here = np.array([group_end(packet) for packet in lost], np.int64)
    packets = np.insert(positions, here, lost)
    damaged = np.insert(damaged_out[:-1], here, True)
    number = np.arange(len(outputs)) + np.searchsorted(here, np.arange(len(outputs)), side="right")
    return Numbered(packets, number, damaged)
