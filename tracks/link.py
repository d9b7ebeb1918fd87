"""Link a finished run: its detections in, ``tracks/`` out, one sequence after the other.

Sequences are independent, so neighbouring ones are gathered into groups, and each group is a task
that writes its own part: in this process, or on Ray where there is much to do. A task goes through
one sequence at a time and reads the embeddings of a few frames at a time. Offline linking keeps
them shortened, those of a long sequence in windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.executors import ExecutorChoice
from cluster.tasks import tasks
from common.errors import InputError
from common.json_models import sha256_file
from common.moved import Pairs
from pipelines.run import Run
from tracks.association.options import PRESETS, LinkOptions
from tracks.link_group import Group, LinkedGroup, link_group
from tracks.offline.looks import SAMPLE, Shortener
from tracks.plan import EmbeddingReader, LinkPlan, read_plan
from tracks.store import (
    PART,
    LinkSummary,
    TracksManifest,
    check_complete,
    replacing_tracks,
    require_tracks_folder,
)

GROUP_ROWS = 20_000
"""Detections of a group of sequences: some seconds of work. A longer sequence is one group."""

PROCESSES_FROM_BYTES = 2 * 2**30
"""Embeddings of more bytes than this are linked on Ray; below, starting it takes longer."""

_NEIGHBOURS = 100  # embeddings read from one place


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
    with replacing_tracks(out) as draft:
        shortener = _shortener(opened, plan) if options.method == "offline" else None
        groups = _groups(run.resolve(), draft.resolve(), plan, options, pairs, shortener)
        large = 4 * opened.manifest.model.feature_dim * rows > PROCESSES_FROM_BYTES
        large = large and len(groups) > 1
        if large or address or executor == "ray":
            # A slice would be sent with the whole table behind it.
            groups = [replace(group, plan=_copied(group.plan)) for group in groups]
        done = 0

        def report(result: LinkedGroup) -> None:
            nonlocal done
            done += result.summary.detections
            progress(done, rows)

        with tasks("link", executor=executor, address=address, large=large) as runner:
            results = runner.run(link_group, groups, done=report)
        summaries = [result.summary for result in results]
        parts = [group.part for group in groups]
        check_complete(parts, plan.table["detection_id"])
        learned = {name: shown for each in results for name, shown in each.learned.items()}
        counts = LinkSummary(
            sequences=len(plan.sequences),
            detections=rows,
            linked=sum(summary.linked for summary in summaries),
            tracks=sum(summary.tracks for summary in summaries),
            left_out=plan.left_out,
            weak=sum(summary.weak for summary in summaries),
            duplicates=sum(summary.duplicates for summary in summaries),
            merged=sum(summary.merged for summary in summaries),
            entered=sum(shown.entered for shown in learned.values()),
            left=sum(shown.left for shown in learned.values()),
            appeared=sum(shown.appeared for shown in learned.values()),
            vanished=sum(shown.vanished for shown in learned.values()),
            notes=tuple(note for summary in summaries for note in summary.notes),
        )
        manifest = TracksManifest(
            fingerprint=opened.manifest.fingerprint,
            rows_sha256=opened.manifest.rows_sha256,
            options=options,
            score_column=score_column,
            counts=counts,
            learned=learned,
            camera_moves={name: moves for each in results for name, moves in each.moves.items()},
            files={part.name: sha256_file(part) for part in parts},
        )
        manifest.write(draft)
        return counts


def _groups(
    run: Path,
    draft: Path,
    plan: LinkPlan,
    options: LinkOptions,
    pairs: Pairs,
    shortener: Shortener | None,
) -> list[Group]:
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
        groups.append(Group(run, part, table, shifted, options, pairs, shortener))
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
