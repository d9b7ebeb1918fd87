"""Link a finished run: its detections in, ``tracks/`` out, one sequence after the other.

Sequences are independent, so neighbouring ones are gathered into groups, and each group is a task
that writes its own part: in this process, or on Ray where there is much to do. A task goes through
one sequence at a time and reads the embeddings of a few frames at a time. Offline linking keeps
them shortened, some 0.6 kB a detection in all, so the longest sequences are linked frame by frame.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.executors import ExecutorChoice
from cluster.tasks import tasks
from common.errors import InputError
from common.json_models import sha256_file
from common.lock import lock_folder
from common.moved import Pairs
from common.parquet import WRITE_OPTIONS
from index.vectors import Ints
from pipelines.run import Run
from tracks.association.camera import CameraMove, move_notes
from tracks.association.duplicates import expand_links, find_duplicates
from tracks.association.gaps import sessions
from tracks.association.linker import Links, link_frames, require_times
from tracks.association.options import PRESETS, LinkOptions
from tracks.association.threads import one_thread
from tracks.geometry import read_geometry
from tracks.offline.learn import Shown
from tracks.offline.linker import MAX_DETECTIONS, link_offline
from tracks.offline.looks import SAMPLE, Shortener
from tracks.plan import (
    SCORE,
    EmbeddingReader,
    LinkPlan,
    gap_warnings,
    image_numbers,
    order_warnings,
    read_plan,
    seconds_of,
)
from tracks.store import (
    PART,
    SCHEMA,
    LinkSummary,
    TracksManifest,
    check_complete,
    require_tracks_folder,
    track_id,
)

GROUP_ROWS = 20_000
"""Detections of a group of sequences: some seconds of work. A longer sequence is one group."""

PROCESSES_FROM_BYTES = 2 * 2**30
"""Embeddings of more bytes than this are linked on Ray; below, starting it takes longer."""


_NEIGHBOURS = 100  # embeddings read from one place
_SHARED = {"max_gap_frames", "max_gap_seconds", "strong_score"}  # options of both methods


@dataclass(frozen=True)
class _Group:
    """A task: sequences to link into one part."""

    run: Path  # the run folder
    part: Path  # file to write
    plan: pa.Table  # the rows of these sequences
    sequences: list[slice]  # the rows of each, counted in plan
    options: LinkOptions  # of linking
    pairs: Pairs  # of folders of images that were moved
    shortener: Shortener | None  # of embeddings, for offline linking


class _Linked(NamedTuple):
    """What a task returns."""

    summary: LinkSummary
    learned: dict[str, Shown]  # by sequence


def link_run(
    run: Path,
    *,
    out: Path | None = None,
    options: LinkOptions | None = None,
    score_column: str | None = None,
    pairs: Pairs = (),
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LinkSummary:
    """Link the detections of every sequence of a finished run into tracks, and write the tracks.

    The new tracks replace the old ones in ``out`` when they are complete; a command that fails
    leaves the old ones. Read the result with ``tracks.store.read_tracks``.

    Args:
        run: folder of the run.
        out: folder of the tracks, new or holding older tracks; default ``run / "tracks"``.
        options: weights, limits and rules of linking; default ``PRESETS["default"]``.
        score_column: column of the run with the detector's score, needed for
            ``options.strong_score`` and for nothing else. Of duplicates the one with the highest
            score is linked; without a column, a ``detector_score`` of numbers is taken for that.
        pairs: of folders of images that were moved.
        executor: where sequences are linked: ``local`` in this process, ``ray`` side by side on
            Ray, ``auto`` on Ray where there is much to link.
        address: of a Ray cluster; default ``RAY_ADDRESS``, else a Ray of its own.
        progress: called with the number of detections done and the number to do.

    Returns:
        Counts of sequences, detections, links and tracks, and warnings about the input.

    Raises:
        RunError: the run is missing, unfinished or without embeddings; ``out`` holds something
            other than tracks.
        FolderError: another command links into ``out``.
        InputError: ``strong_score`` without ``score_column`` or the reverse; ``max_gap_seconds``
            in a sequence without times, or whose times run backwards; embeddings that are zero or
            not finite, named.
        VerifyError: the output does not hold every detection exactly once; nothing is replaced.
        WorkError: a task on Ray failed or stalled.

    Example:
        >>> summary = link_run(Path("runs/first"), options=LinkOptions(max_gap_frames=3))
        >>> print(summary.tracks, "tracks of", summary.detections, "detections")
        6 tracks of 36 detections
    """
    opened = Run.open(run, pairs)
    options = options or PRESETS["default"]
    if (options.strong_score is None) != (score_column is None):
        raise InputError("`strong_score` and `score_column` go together; give both or neither")
    out = out or run / "tracks"
    require_tracks_folder(out)
    plan = read_plan(opened, score_column)
    rows = plan.table.num_rows
    with _replacing(out) as draft:
        shortener = _shortener(opened, plan) if options.method == "offline" else None
        groups = _groups(run.resolve(), draft.resolve(), plan, options, pairs, shortener)
        large = 4 * opened.manifest.model.feature_dim * rows > PROCESSES_FROM_BYTES
        large = large and len(groups) > 1
        if large or address or executor == "ray":
            # A slice would be sent with the whole table behind it.
            groups = [replace(group, plan=_copied(group.plan)) for group in groups]
        done = 0

        def report(result: _Linked) -> None:
            nonlocal done
            done += result.summary.detections
            progress(done, rows)

        with tasks("link", executor=executor, address=address, large=large) as runner:
            results = runner.run(_link_group, groups, done=report)
        summaries = [result.summary for result in results]
        parts = [group.part for group in groups]
        check_complete(parts, plan.table["detection_id"])
        counts = LinkSummary(
            sequences=len(plan.sequences),
            detections=rows,
            linked=sum(summary.linked for summary in summaries),
            tracks=sum(summary.tracks for summary in summaries),
            left_out=plan.left_out,
            weak=sum(summary.weak for summary in summaries),
            duplicates=sum(summary.duplicates for summary in summaries),
            notes=tuple(note for summary in summaries for note in summary.notes),
        )
        manifest = TracksManifest(
            fingerprint=opened.manifest.fingerprint,
            rows_sha256=opened.manifest.rows_sha256,
            options=options,
            score_column=score_column,
            counts=counts,
            learned={name: shown for each in results for name, shown in each.learned.items()},
            files={part.name: sha256_file(part) for part in parts},
        )
        manifest.write(draft)
        return counts


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A new folder to write into, which replaces ``out`` at the end of the block."""
    # A folder that a killed command left is taken over.
    work = out.with_name(f".{out.name}.linking")
    draft, old = work / "new", work / "old"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock_folder(work, "link"):
            try:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                yield draft
                if old.exists():  # a command was killed between the two renames, or right after
                    shutil.rmtree(old)
                if out.exists():
                    out.rename(old)
                try:
                    draft.rename(out)
                except OSError:
                    if old.exists():
                        old.rename(out)
                    raise
            finally:
                for folder in (draft, old):
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):  # another command is at work there
            work.rmdir()


def _groups(
    run: Path,
    draft: Path,
    plan: LinkPlan,
    options: LinkOptions,
    pairs: Pairs,
    shortener: Shortener | None,
) -> list[_Group]:
    """Neighbouring sequences together, up to ``GROUP_ROWS``; at least one group, maybe empty."""
    gathered: list[list[slice]] = [[]]
    for rows in plan.sequences:
        if gathered[-1] and rows.stop - gathered[-1][0].start > GROUP_ROWS:
            gathered.append([])
        gathered[-1].append(rows)
    groups = []
    for number, sequences in enumerate(gathered):
        start, stop = (sequences[0].start, sequences[-1].stop) if sequences else (0, 0)
        shifted = [slice(rows.start - start, rows.stop - start) for rows in sequences]
        part = draft / PART.format(number)
        table = plan.table[start:stop]
        groups.append(_Group(run, part, table, shifted, options, pairs, shortener))
    return groups


def _shortener(run: Run, plan: LinkPlan) -> Shortener | None:
    """Fitted to embeddings from all over the run, some neighbouring ones at each of a few places."""
    if not plan.table.num_rows:
        return None
    rows, places = plan.table.num_rows, SAMPLE // _NEIGHBOURS
    reader = EmbeddingReader(run, plan.table, window_bytes=1)
    starts = np.unique(np.linspace(0, max(rows - _NEIGHBOURS, 0), places).astype(int))
    parts = [reader.rows(start, min(start + _NEIGHBOURS, rows)) for start in starts.tolist()]
    return Shortener(np.concatenate(parts))


def _copied(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.arange(table.num_rows)))


def _link_group(group: _Group) -> _Linked:
    run = Run.open(group.run, group.pairs)
    linked = tracks = weak = duplicates = 0
    notes: list[str] = []
    learned: dict[str, Shown] = {}
    reader = EmbeddingReader(run, group.plan)
    with one_thread(), pq.ParquetWriter(group.part, SCHEMA, **WRITE_OPTIONS) as writer:
        for rows in group.sequences:
            links, kept = _link_sequence(run, group, rows, reader, notes, learned)
            is_kept = kept == np.arange(len(kept))
            linked += int((links.previous >= 0).sum())
            weak += int((links.track[is_kept] < 0).sum())
            tracks += int(links.track.max(initial=-1)) + 1
            duplicates += int((~is_kept).sum())
            writer.write_table(_table(group.plan[rows], links, kept))
    summary = LinkSummary(
        sequences=len(group.sequences),
        detections=group.plan.num_rows,
        linked=linked,
        tracks=tracks,
        left_out=0,
        weak=weak,
        duplicates=duplicates,
        notes=tuple(notes),
    )
    return _Linked(summary, learned)


def _link_sequence(
    run: Run,
    group: _Group,
    sequence: slice,
    reader: EmbeddingReader,
    notes: list[str],
    learned: dict[str, Shown],
) -> tuple[Links, Ints]:
    """Link the rows ``sequence`` of a group; warnings are added to ``notes``, what it showed to ``learned``.

    Returns:
        The links of all its rows, and the row of which each one is a duplicate, itself for most.
    """
    plan, name = group.plan[sequence], group.plan["sequence"][sequence.start].as_py()
    frames, seconds = plan["frame"].to_numpy(), seconds_of(plan["timestamp"])
    try:
        require_times(seconds, len(frames), group.options)
    except InputError as error:
        raise InputError(f"sequence {name!r}: {error}") from None
    stored = read_geometry(run, plan)
    geometry = stored.in_common_frame()
    notes += [*order_warnings(name, plan), *geometry.warnings(name)]
    scores = plan[SCORE].to_numpy() if SCORE in plan.column_names else None

    def embeddings(rows: Ints) -> npt.NDArray[np.float32]:
        first, last = int(rows[0]), int(rows[-1])
        read = reader.rows(sequence.start + first, sequence.start + last + 1)
        return read if len(rows) == len(read) else read[rows - first]

    kept = find_duplicates(frames, image_numbers(plan), stored.boxes, embeddings, scores)
    single = np.flatnonzero(kept == np.arange(len(kept)))
    parts = [slice(len(single))]
    if group.options.max_gap_seconds is None:
        limit = group.options.gap_frames
        parts = sessions(frames[single], seconds[single], max_gap_frames=limit)
        notes += gap_warnings(name, frames[single], seconds[single], parts)
    moves: list[CameraMove] = []
    if group.shortener is not None and len(single) <= MAX_DETECTIONS:
        links, learned[name] = link_offline(
            frames[single],
            geometry.boxes[single],
            lambda part: embeddings(single[part]),
            geometry.sizes[single],
            group.shortener,
            parts=parts,
            seconds=seconds[single],
            scores=None if scores is None else scores[single],
            options=group.options,
            on_move=moves.append,
        )
        notes += move_notes(name, moves, len(np.unique(frames)))
        return expand_links(links.counted_from(0, single), kept), kept
    online = group.options
    if group.shortener is not None:
        online = PRESETS["online"].replace(**online.model_dump(include=_SHARED))
        notes.append(
            f"sequence {name!r}: {len(single):,} detections are linked frame by frame, as more than "
            f"{MAX_DETECTIONS:,} are not linked at once"
        )
    linked: list[Links] = []
    tracks = 0
    for rows in (single[part] for part in parts):
        links = link_frames(
            frames[rows],
            geometry.boxes[rows],
            lambda part, rows=rows: embeddings(rows[part]),  # type: ignore[misc]
            geometry.diagonals[rows],
            dim=run.manifest.model.feature_dim,
            seconds=seconds[rows],
            scores=None if scores is None else scores[rows],
            options=online,
            on_move=moves.append,
        )
        linked.append(links.counted_from(tracks, rows))
        tracks += int(links.track.max(initial=-1)) + 1
    notes += move_notes(name, moves, len(np.unique(frames)))
    return expand_links(Links.concatenate(linked), kept), kept


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
        ],
        schema=SCHEMA,
    )
