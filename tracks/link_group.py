"""Links a group of neighbouring sequences into one part of the tracks; a task of ``tracks.link``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.moved import Pairs
from common.parquet import WRITE_OPTIONS
from index.vectors import Ints
from pipelines.run import Run
from tracks.association.camera import CameraMove, move_notes
from tracks.association.duplicates import expand_links, find_duplicates
from tracks.association.gaps import sessions
from tracks.association.linker import Links, link_frames, require_times
from tracks.association.options import LinkOptions
from tracks.association.threads import one_thread
from tracks.geometry import read_geometry
from tracks.offline.learn import Shown
from tracks.offline.linker import link_offline
from tracks.offline.looks import Shortener
from tracks.plan import (
    SCORE,
    EmbeddingReader,
    gap_warnings,
    image_numbers,
    order_warnings,
    seconds_of,
)
from tracks.store import SCHEMA, LinkSummary, track_id


@dataclass(frozen=True)
class Group:
    """Sequences to link into one part."""

    run: Path  # the run folder
    part: Path  # file to write
    plan: pa.Table  # the rows of these sequences
    sequences: list[slice]  # the rows of each, counted in plan
    options: LinkOptions  # of linking
    pairs: Pairs  # of folders of images that were moved
    shortener: Shortener | None  # of embeddings, for offline linking


class LinkedGroup(NamedTuple):
    """What a task returns."""

    summary: LinkSummary
    learned: dict[str, Shown]  # by sequence
    moves: dict[str, list[CameraMove]]  # of the camera, by sequence


def link_group(group: Group) -> LinkedGroup:
    """Link the sequences of a group and write their part."""
    run = Run.open(group.run, group.pairs)
    linked = tracks = weak = duplicates = merged = 0
    notes: list[str] = []
    learned: dict[str, Shown] = {}
    moves: dict[str, list[CameraMove]] = {}
    reader = EmbeddingReader(run, group.plan)
    with one_thread(), pq.ParquetWriter(group.part, SCHEMA, **WRITE_OPTIONS) as writer:
        for rows in group.sequences:
            name = group.plan["sequence"][rows.start].as_py()
            links, kept, shown, moved, said = _link_sequence(run, group, name, rows, reader)
            notes += said
            if shown is not None:
                learned[name] = shown
            if moved:
                moves[name] = moved
            is_kept = kept == np.arange(len(kept))
            linked += int((links.previous >= 0).sum())
            weak += int((links.track[is_kept] < 0).sum())
            tracks += int(links.track.max(initial=-1)) + 1
            duplicates += int((~is_kept).sum())
            merged += len(np.unique(links.others[:, 0]))
            writer.write_table(_table(group.plan[rows], links, kept))
    summary = LinkSummary(
        sequences=len(group.sequences),
        detections=group.plan.num_rows,
        linked=linked,
        tracks=tracks,
        left_out=0,
        weak=weak,
        duplicates=duplicates,
        merged=merged,
        notes=tuple(notes),
    )
    return LinkedGroup(summary, learned, moves)


class _LinkedSequence(NamedTuple):
    """Of N detections."""

    links: Links
    kept: Ints  # the detection of which each one is a duplicate, itself for most [N]
    shown: Shown | None  # None: linked frame by frame
    moves: list[CameraMove]
    notes: list[str]  # for people


def _link_sequence(
    run: Run, group: Group, name: str, sequence: slice, reader: EmbeddingReader
) -> _LinkedSequence:
    """Link the rows ``sequence`` of a group."""
    plan, options = group.plan[sequence], group.options
    frames, seconds = plan["frame"].to_numpy(), seconds_of(plan["timestamp"])
    try:
        require_times(seconds, len(frames), options)
    except InputError as error:
        raise InputError(f"sequence {name!r}: {error}") from None
    stored = read_geometry(run, plan)
    geometry = stored.in_common_frame()
    notes = [*order_warnings(name, plan), *geometry.warnings(name)]
    scores = plan[SCORE].to_numpy() if SCORE in plan.column_names else None

    def embeddings(rows: Ints) -> npt.NDArray[np.float32]:
        first, last = int(rows[0]), int(rows[-1])
        read = reader.rows(sequence.start + first, sequence.start + last + 1)
        return read if len(rows) == len(read) else read[rows - first]

    kept = find_duplicates(frames, image_numbers(plan), stored.boxes, embeddings, scores)
    single = np.flatnonzero(kept == np.arange(len(kept)))
    parts = [slice(0, len(single))]
    if options.max_gap_seconds is None:
        parts = sessions(frames[single], seconds[single], max_gap_frames=options.gap_frames)
        notes += gap_warnings(name, frames[single], seconds[single], parts)
    moves: list[CameraMove] = []
    shown: Shown | None = None
    if group.shortener is not None:
        links, shown = link_offline(
            frames[single],
            geometry.boxes[single],
            lambda part: embeddings(single[part]),
            geometry.sizes[single],
            group.shortener,
            parts=parts,
            seconds=seconds[single],
            scores=None if scores is None else scores[single],
            options=options,
            on_move=moves.append,
        )
        links = links.counted_from(0, single)
    else:
        linked: list[Links] = []
        tracks = 0
        for rows in (single[part] for part in parts):
            part_links = link_frames(
                frames[rows],
                geometry.boxes[rows],
                lambda part, rows=rows: embeddings(rows[part]),  # type: ignore[misc]
                geometry.diagonals[rows],
                dim=run.manifest.model.feature_dim,
                seconds=seconds[rows],
                scores=None if scores is None else scores[rows],
                options=options,
                on_move=moves.append,
            )
            linked.append(part_links.counted_from(tracks, rows))
            tracks += int(part_links.track.max(initial=-1)) + 1
        links = Links.concatenate(linked)
    notes += move_notes(name, moves, len(np.unique(frames)))
    notes += _count_notes(name, links, options.individuals)
    return _LinkedSequence(expand_links(links, kept), kept, shown, moves, notes)


def _count_notes(name: str, links: Links, individuals: int | None) -> list[str]:
    """What to say where there are not as many tracks as individuals."""
    tracks = int(links.track.max(initial=-1)) + 1
    if individuals is None or tracks == individuals:
        return []
    reason = (
        "as more boxes are in one frame, or tracks overlap in time: false boxes, or animals found twice"
        if tracks > individuals
        else "as no more were ever found"
    )
    return [f"sequence {name!r}: {tracks} tracks for {individuals} individuals, {reason}"]


def _table(plan: pa.Table, links: Links, kept: Ints) -> pa.Table:
    """The tracks of one sequence, as ``SCHEMA``."""
    name = plan["sequence"][0].as_py()
    ids = plan["detection_id"].combine_chunks()
    trackless, start = links.track < 0, links.previous < 0
    costs = np.column_stack([links.cost, links.terms, links.margin]).astype(np.float32)
    names = pa.array(
        [track_id(name, number) for number in range(links.track.max(initial=-1) + 1)], pa.string()
    )
    return pa.table(
        [
            ids,
            names.take(pa.array(links.track, mask=trackless)),
            plan["sequence"].combine_chunks(),
            plan["frame"].combine_chunks(),
            pa.array(links.position.astype(np.int32), mask=trackless),
            ids.take(pa.array(links.previous, mask=start)),
            *(pa.array(column, mask=start) for column in costs.T),
            ids.take(pa.array(kept, mask=kept == np.arange(len(kept)))),
            _other_tracks(links, names),
        ],
        schema=SCHEMA,
    )


def _other_tracks(links: Links, names: pa.Array) -> pa.Array:
    """The names of the other tracks in each box; null for most."""
    rows, tracks = links.others.T
    counts = np.bincount(rows, minlength=len(links.track))
    offsets = np.r_[0, np.cumsum(counts)].astype(np.int32)
    return pa.ListArray.from_arrays(
        offsets, names.take(pa.array(tracks)), mask=pa.array(counts == 0)
    )
