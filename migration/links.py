"""Links that change, and the ``max_cost`` that suits the new space: see ``report.Threshold``.

Both runs are linked with the options of the old run's tracks, so that only the embeddings differ.
The threshold is derived from pairs of detections in consecutive frames, drawn at random where
there are many, each measured in both spaces.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from index.vectors import Floats
from migration.align import Bools, Rows
from migration.report import Histogram, LinksChanged, Separation, Threshold
from migration.spaces import BINS, SEED, histogram
from tracks.association.costs import cost_terms
from tracks.association.frames import by_frame
from tracks.association.options import PRESETS, LinkOptions
from tracks.geometry import read_geometry
from tracks.link import link_run
from tracks.plan import read_plan, sequence_slices
from tracks.store import LinkSummary, TracksManifest, read_tracks

_WORK = ".links-"
_MAX_PAIRS = 200_000
_MAX_BYTES = 64 * 2**20  # of embeddings of either run, for the pairs


def compare_links(
    old: Rows,
    new: Rows,
    work: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[LinksChanged, Threshold]:
    """Link both runs with the same options and compare.

    Where the old run has tracks and the new one has none, the new tracks are kept in the new run,
    so that they can be served.

    Args:
        old: rows of the old run.
        new: rows of the new run.
        work: folder for temporary files.
        progress: called with (detections linked, detections in all), of both runs together.
    """
    plan = read_plan(old.run, None).table
    frames = plan.group_by("sequence").aggregate([("frame", "count_distinct")])
    if not plan.num_rows or pc.max(frames["frame_count_distinct"]).as_py() < 2:
        return _not_comparable(
            "no sequence has detections in two frames, so there is nothing to link"
        )
    options, score_column = _link_options(old)
    total = plan.num_rows + int(new.embedded.sum())
    for leftover in work.glob(f"{_WORK}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with TemporaryDirectory(prefix=_WORK, dir=work) as folder:
        summaries: list[LinkSummary] = []
        tables: list[pa.Table] = []
        for rows, tracked in ((old, Path(folder, "old")), (new, Path(folder, "new"))):
            before = sum(summary.detections for summary in summaries)
            try:
                summary = link_run(
                    rows.run.path,
                    out=tracked / "tracks",
                    options=options,
                    score_column=score_column,
                    pairs=rows.run.pairs,
                    progress=lambda done, _, before=before: progress(before + done, total),  # type: ignore[misc]
                )
            except InputError as error:
                return _not_comparable(f"linking {rows.run.path} is refused: {error}")
            summaries.append(summary)
            tables.append(read_tracks(tracked))
        if has_tracks(old.run.path) and not has_tracks(new.run.path):
            (Path(folder, "new") / "tracks").rename(new.run.path / "tracks")
    kept, lost, added = changed_links(*tables)
    report = LinksChanged(
        reason=None,
        options=options,
        then=summaries[0].linked,
        now=summaries[1].linked,
        kept=kept,
        lost=lost,
        new=added,
        changed=(lost + added) / (kept + lost + added) if kept + lost + added else 0.0,
        tracks_then=summaries[0].tracks,
        tracks_now=summaries[1].tracks,
    )
    if options.method == "offline":
        return report, Threshold(reason="offline linking takes its threshold from each sequence")
    both = plan.filter(pa.array(new.embedded[plan["row_id"].to_numpy()]))
    # A duplicate is near to what its detection continues, and is not linked to it.
    repeated = tables[0].filter(tables[0]["duplicate_of"].is_valid())["detection_id"]
    both = both.filter(pc.invert(pc.is_in(both["detection_id"], repeated)))
    return report, threshold(*_pairs(old, new, both, tables[0], options), options.max_cost)


def changed_links(old: pa.Table, new: pa.Table) -> tuple[int, int, int]:
    """Numbers of links (previous, this) of two tables of tracks: kept, lost and new.

    A detection that continues another one than before has lost a link and has a new one.
    """
    names = ["detection_id", "previous_detection_id"]
    old_links, new_links = (
        table.select(names).filter(pc.is_valid(table["previous_detection_id"]))
        for table in (old, new)
    )
    kept = old_links.join(new_links, keys=names, join_type="inner").num_rows
    return kept, old_links.num_rows - kept, new_links.num_rows - kept


def threshold(linked: Bools, old_cost: Floats, new_cost: Floats, max_cost: float) -> Threshold:
    """The ``max_cost`` of the new space for that of the old one; see ``report.Threshold``.

    Args:
        linked: whether the old run links each pair ``[P]``.
        old_cost: of the pairs in the old space ``[P]``.
        new_cost: in the new one ``[P]``.
        max_cost: of the old space.
    """
    count, within = len(old_cost), int((old_cost <= max_cost).sum())
    reason, suggested = None, None
    if not count:
        reason = "no two detections in consecutive frames have an embedding in both runs"
    elif within in (0, count):
        reason = (
            f"{'all' if within else 'none'} of {count} pairs cost at most {max_cost:g}, so they "
            "do not determine a threshold"
        )
    else:
        ordered = np.sort(new_cost)
        suggested = float((ordered[within - 1] + ordered[within]) / 2)
    return Threshold(
        reason=reason,
        max_cost=max_cost,
        suggested=suggested,
        pairs=count,
        linked=int(linked.sum()),
        within=within,
        linked_within_now=float((new_cost[linked] <= max_cost).mean()) if linked.any() else None,
        then=separation(old_cost, linked),
        now=separation(new_cost, linked),
        **_histograms(linked, old_cost, new_cost),
    )


def separation(cost: Floats, linked: Bools) -> Separation | None:
    """The threshold that separates linked pairs from the others best, the lowest of equals.

    Args:
        cost: float64 ``[P]``.
        linked: bool ``[P]``.

    Returns:
        None where all pairs are linked, or none is.
    """
    if not linked.any() or linked.all():
        return None
    values = np.unique(cost)
    thresholds: Floats = np.r_[values[0] - 1e-9, (values[1:] + values[:-1]) / 2, values[-1]]
    linked_costs, other_costs = np.sort(cost[linked]), np.sort(cost[~linked])
    inside: Floats = np.searchsorted(linked_costs, thresholds, side="right") / len(linked_costs)
    outside: Floats = 1 - np.searchsorted(other_costs, thresholds, side="right") / len(other_costs)
    best = int((inside + outside).argmax())
    return Separation(
        threshold=float(thresholds[best]),
        balanced=float((inside[best] + outside[best]) / 2),
        linked_within=float(inside[best]),
        others_beyond=float(outside[best]),
    )


def has_tracks(run: Path) -> bool:
    """Whether ``run`` was linked."""
    return (run / "tracks" / "manifest.json").is_file()


def _link_options(old: Rows) -> tuple[LinkOptions, str | None]:
    """Options of the old run's tracks; where it has none, those of online linking."""
    if not has_tracks(old.run.path):
        return PRESETS["online"], None
    manifest = TracksManifest.read(old.run.path / "tracks")
    return manifest.options, manifest.score_column


def _pairs(
    old: Rows, new: Rows, plan: pa.Table, tracks: pa.Table, options: LinkOptions
) -> tuple[Bools, Floats, Floats]:
    """Pairs in consecutive frames: whether the old run links them, and their costs in both spaces."""
    sampled = _sample_frame_pairs(plan, max(2, _MAX_BYTES // (4 * max(old.dim, new.dim))))
    if not sampled:
        return np.empty(0, bool), np.empty(0), np.empty(0)
    positions = np.arange(plan.num_rows)
    used = np.unique(np.concatenate([positions[frame] for frames in sampled for frame in frames]))
    rows = plan.take(pa.array(used))
    geometries = [
        read_geometry(old.run, rows[part]).in_common_frame() for part in sequence_slices(rows)
    ]
    boxes = np.concatenate([geometry.boxes for geometry in geometries])
    diagonals = np.concatenate([geometry.diagonals for geometry in geometries])
    row_ids, ids = rows["row_id"].to_numpy(), rows["detection_id"].combine_chunks()
    embeddings = old.embeddings(row_ids), new.embeddings(row_ids)
    tracks = tracks.take(pc.index_in(ids, tracks["detection_id"].combine_chunks()))
    previous = pc.index_in(tracks["previous_detection_id"], ids).fill_null(-1).to_numpy()
    linked: list[Bools] = []
    costs: tuple[list[Floats], list[Floats]] = ([], [])
    for frames in sampled:
        first, second = (np.searchsorted(used, positions[frame]) for frame in frames)
        linked.append((first[:, None] == previous[second]).ravel())
        for vectors, space_costs in zip(embeddings, costs, strict=True):
            total = cost_terms(
                vectors[first],
                boxes[first],
                vectors[second],
                boxes[second],
                diagonal_px=float(diagonals[second[0]]),
                weights=options.weights,
            ).total
            space_costs.append(total.ravel())
    return np.concatenate(linked), np.concatenate(costs[0]), np.concatenate(costs[1])


def _sample_frame_pairs(plan: pa.Table, max_rows: int) -> list[tuple[slice, slice]]:
    """Consecutive frames of a sequence, as slices of ``plan``; at random up to the limits."""
    numbers = plan["frame"].to_numpy()
    consecutive: list[tuple[slice, slice]] = []
    for rows in sequence_slices(plan):
        consecutive += pairwise(
            slice(rows.start + frame.start, rows.start + frame.stop)
            for frame in by_frame(numbers[rows])
        )
    sampled: list[tuple[slice, slice]] = []
    rows_sampled = pairs = 0
    for number in np.random.default_rng(SEED).permutation(len(consecutive)):
        first, second = consecutive[number]
        m, n = first.stop - first.start, second.stop - second.start
        if sampled and (pairs + m * n > _MAX_PAIRS or rows_sampled + m + n > max_rows):
            break
        sampled.append((first, second))
        rows_sampled, pairs = rows_sampled + m + n, pairs + m * n
    return sampled


def _histograms(linked: Bools, old_cost: Floats, new_cost: Floats) -> dict[str, Histogram]:
    """Costs of linked pairs and of the others in both spaces, with one scale for all four."""
    if not len(linked):
        return {}
    edges = np.linspace(0, max(float(old_cost.max()), float(new_cost.max()), 1e-6), BINS + 1)
    return {
        f"{group}_{space}": histogram(cost[mask], edges)
        for group, mask in (("linked", linked), ("others", ~linked))
        for space, cost in (("then", old_cost), ("now", new_cost))
    }


def _not_comparable(reason: str) -> tuple[LinksChanged, Threshold]:
    return LinksChanged(reason=reason), Threshold(reason=reason)
