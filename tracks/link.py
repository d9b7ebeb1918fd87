"""Link a finished run: its detections in, ``tracks/`` out, one sequence after the other.

Sequences know nothing of each other, so neighbouring ones are gathered into groups, and each
group is a task that writes its own part: here, or on Ray where there is much to do. A task goes
through one sequence at a time and reads the embeddings of a few frames at a time, so memory
does not grow with the length of a sequence but by what is written about each detection.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.executors import ExecutorChoice
from cluster.tasks import tasks
from common.errors import InputError
from common.json_models import sha256_file, write_atomic
from common.lock import lock_folder
from pipelines.run import Run
from tracks.association.linker import Linker, Links, by_frame, frame_step, require_times
from tracks.association.options import LinkOptions
from tracks.association.threads import one_thread
from tracks.embeddings import EmbeddingReader
from tracks.sequences import SCORE, LinkPlan, order_warnings, read_plan, seconds_of
from tracks.sizes import geometry
from tracks.store import (
    PART,
    SCHEMA,
    LinkSummary,
    TracksManifest,
    check_complete,
    replace_folder,
    require_tracks_folder,
    track_id,
)

GROUP_ROWS = 20_000
"""Detections of a group of sequences: some seconds of work. A longer sequence is one group."""

PROCESSES_FROM_BYTES = 2 * 2**30
"""Embeddings of more bytes than this are linked on Ray; below, starting it takes longer."""


@dataclass(frozen=True)
class _Group:
    """A task: sequences to link into one part."""

    run: Path
    part: Path
    plan: pa.Table
    sequences: list[slice]
    options: LinkOptions


def link_run(
    run: Path,
    *,
    out: Path | None = None,
    options: LinkOptions | None = None,
    score_column: str | None = None,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LinkSummary:
    """Link every sequence of a finished run and write its tracks, replacing older ones.

    Args:
        run: the run folder.
        out: where the tracks go; default ``run / "tracks"``.
        options: default ``tracks.association.options.PRESETS["default"]``.
        score_column: column of the run with the detector's scores, for ``strong_score``.
        executor: where sequences are linked, side by side where there is much to link.
        address: of a Ray cluster.
        progress: called with detections done and detections to do.

    Raises:
        RunError: the run is missing, unfinished or without embeddings; ``out`` holds something
            else than tracks, or another command links into it.
        InputError: ``strong_score`` without scores; ``max_gap_seconds`` in a sequence without
            times, or whose times run backwards; embeddings that are zero or not finite, named.
        VerifyError: a detection would not stand exactly once in the output.
        WorkError: a task on Ray failed or stalled.
    """
    opened = Run.open(run)
    options = options or LinkOptions()
    if (options.strong_score is None) != (score_column is None):
        raise InputError("strong_score and a score column go together; give both or neither")
    out = out or run / "tracks"
    require_tracks_folder(out)
    plan = read_plan(opened, score_column)
    with _replacing(out) as draft:
        groups = _groups(run.resolve(), draft.resolve(), plan, options)
        size = 4 * opened.manifest.model.feature_dim * plan.table.num_rows
        large = size > PROCESSES_FROM_BYTES and len(groups) > 1
        if large or address or executor == "ray":
            # A slice would be sent with the whole table behind it.
            whole = [pa.array(np.arange(group.plan.num_rows)) for group in groups]
            groups = [replace(g, plan=g.plan.take(at)) for g, at in zip(groups, whole, strict=True)]
        done = 0

        def heard(linked: LinkSummary) -> None:
            nonlocal done
            done += linked.detections
            progress(done, plan.table.num_rows)

        with tasks("link", executor=executor, address=address, large=large) as place:
            made = place.run(_link_group, groups, done=heard)
        parts = [group.part for group in groups]
        check_complete(parts, plan.table["detection_id"])
        counts = LinkSummary(
            sequences=sum(one.sequences for one in made),
            detections=sum(one.detections for one in made),
            linked=sum(one.linked for one in made),
            tracks=sum(one.tracks for one in made),
            left_out=plan.left_out,
            weak=sum(one.weak for one in made),
            notes=tuple(note for one in made for note in one.notes),
        )
        manifest = TracksManifest(
            fingerprint=opened.manifest.fingerprint,
            options=options,
            score_column=score_column,
            counts=counts,
            files={part.name: sha256_file(part) for part in parts},
        )
        write_atomic(draft / "manifest.json", manifest.model_dump_json(indent=2).encode())
        return counts


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` to write into, which then stands in its place."""
    # A folder that a killed command left is taken over.
    beside = out.with_name(f".{out.name}.linking")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock_folder(beside, "link"):
            try:
                draft = beside / "new"
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                yield draft
                replace_folder(draft, out, old=beside / "old")
            finally:
                for name in ("new", "old"):
                    shutil.rmtree(beside / name, ignore_errors=True)
    finally:
        with suppress(OSError):  # another command is at work there
            beside.rmdir()


def _groups(run: Path, draft: Path, plan: LinkPlan, options: LinkOptions) -> list[_Group]:
    """Neighbouring sequences together, up to ``GROUP_ROWS``; at least one group, maybe empty."""
    gathered: list[list[slice]] = [[]]
    for part in plan.sequences:
        if gathered[-1] and part.stop - gathered[-1][0].start > GROUP_ROWS:
            gathered.append([])
        gathered[-1].append(part)
    groups = []
    for number, parts in enumerate(gathered):
        start, stop = (parts[0].start, parts[-1].stop) if parts else (0, 0)
        inside = [slice(part.start - start, part.stop - start) for part in parts]
        part_file = draft / PART.format(number)
        groups.append(_Group(run, part_file, plan.table[start:stop], inside, options))
    return groups


def _link_group(group: _Group) -> LinkSummary:
    run = Run.open(group.run)
    linked = tracks = weak = 0
    notes: list[str] = []
    looks = EmbeddingReader(run, group.plan)
    with one_thread(), pq.ParquetWriter(group.part, SCHEMA) as writer:
        for part in group.sequences:
            links = _link_sequence(run, group.plan[part], part.start, looks, group.options, notes)
            linked += int((links.previous >= 0).sum())
            weak += int((links.track < 0).sum())
            tracks += int(links.track.max(initial=-1)) + 1
            writer.write_table(_table(group.plan[part], links))
    return LinkSummary(
        len(group.sequences), group.plan.num_rows, linked, tracks, 0, weak, tuple(notes)
    )


def _link_sequence(
    run: Run,
    plan: pa.Table,
    at: int,
    looks: EmbeddingReader,
    options: LinkOptions,
    notes: list[str],
) -> Links:
    """Link the rows ``plan`` of one sequence, whose embeddings start at ``at`` in ``looks``."""
    name = plan["sequence"][0].as_py()
    frames, seconds = plan["frame"].to_numpy(), seconds_of(plan["timestamp"])
    try:
        require_times(seconds, len(frames), options)
    except InputError as error:
        raise InputError(f"sequence {name!r}: {error}") from None
    places = geometry(run, plan)
    notes += [*order_warnings(name, frames, seconds), *places.doubts(name)]
    scores = plan[SCORE].to_numpy() if SCORE in plan.column_names else None
    linker = Linker(run.manifest.model.feature_dim, options, frame_step=frame_step(frames))
    return Links.joined(
        [
            linker.step(
                int(frames[rows.start]),
                places.boxes[rows],
                looks.rows(at + rows.start, at + rows.stop),
                diagonal_px=float(places.diagonals[rows.start]),
                seconds=float(seconds[rows.start]),
                scores=None if scores is None else scores[rows],
            )
            for rows in by_frame(frames)
        ]
    )


def _table(plan: pa.Table, links: Links) -> pa.Table:
    """The tracks of one sequence, as ``SCHEMA``."""
    name = plan["sequence"][0].as_py()
    ids = plan["detection_id"].combine_chunks()
    alone = links.track < 0
    start = links.previous < 0
    costs = np.column_stack([links.cost, links.terms, links.margin]).astype(np.float32)
    names = pa.array([track_id(name, one) for one in range(links.track.max(initial=-1) + 1)])
    return pa.table(
        [
            ids,
            names.cast(pa.string()).take(pa.array(links.track, mask=alone)),
            plan["sequence"].combine_chunks(),
            plan["frame"].combine_chunks(),
            pa.array(links.position.astype(np.int32), mask=alone),
            ids.take(pa.array(links.previous, mask=start)),
            *(pa.array(column, mask=start) for column in costs.T),
        ],
        schema=SCHEMA,
    )
