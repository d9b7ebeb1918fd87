"""Links that would change, and the ``max_cost`` that would keep them: see ``report.Threshold``.

Both runs are linked anew with the options that the old run's tracks were made with, so that only
the embeddings differ. The threshold is read off pairs of detections in neighbouring frames, some
drawn at random where there are many, each measured in both spaces.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from common.json_models import read_json
from migration.report import Histogram, LinksChanged, Separation, Threshold
from migration.rows import Bools, Rows
from migration.spaces import SEED, histogram
from tracks.association.costs import cost_terms
from tracks.association.linker import by_frame
from tracks.association.options import LinkOptions
from tracks.link import link_run
from tracks.sequences import read_plan
from tracks.sizes import geometry
from tracks.store import LinkSummary, TracksManifest, read_tracks

Floats = npt.NDArray[np.float64]

_WORK = ".links-"
_MOST_PAIRS = 200_000
_MOST_BYTES = 64 * 2**20  # of embeddings of either run, for the pairs
_BINS = 40


@dataclass(frozen=True)
class Pairs:
    """P pairs of detections in neighbouring frames: whether the old run links them, and costs."""

    linked: Bools
    then: Floats
    now: Floats


def compare_links(
    then: Rows,
    now: Rows,
    work: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[LinksChanged, Threshold]:
    """Link both runs with the same options and compare.

    Where the old run has tracks and the new one has none, the new one's are kept as its own, so
    that who serves it has tracks to serve.

    Args:
        then, now: the rows of both.
        work: folder for files that are removed again.
        progress: called with detections linked and detections to link, of both runs.
    """
    plan = read_plan(then.run, None).table
    frames = plan.group_by("sequence").aggregate([("frame", "count_distinct")])
    if not plan.num_rows or pc.max(frames["frame_count_distinct"]).as_py() < 2:
        return _not_comparable(
            "no sequence has detections in two frames, so there is nothing to link"
        )
    options, score_column = _link_options(then)
    total = plan.num_rows + int(now.embedded.sum())
    for leftover in work.glob(f"{_WORK}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with TemporaryDirectory(prefix=_WORK, dir=work) as folder:
        summaries: list[LinkSummary] = []
        tables: list[pa.Table] = []
        for rows, place in ((then, Path(folder, "then")), (now, Path(folder, "now"))):
            before = sum(one.detections for one in summaries)
            try:
                summary = link_run(
                    rows.run.path,
                    out=place / "tracks",
                    options=options,
                    score_column=score_column,
                    progress=lambda done, _, before=before: progress(before + done, total),  # type: ignore[misc]
                )
            except InputError as error:
                return _not_comparable(f"linking {rows.run.path} is refused: {error}")
            summaries.append(summary)
            tables.append(read_tracks(place))
        if has_tracks(then.run.path) and not has_tracks(now.run.path):
            (Path(folder, "now") / "tracks").rename(now.run.path / "tracks")
    changed = changed_links(*tables)
    report = LinksChanged(
        reason=None,
        options=options,
        then=summaries[0].linked,
        now=summaries[1].linked,
        kept=changed[0],
        lost=changed[1],
        new=changed[2],
        changed=(changed[1] + changed[2]) / sum(changed) if sum(changed) else 0.0,
        tracks_then=summaries[0].tracks,
        tracks_now=summaries[1].tracks,
    )
    both = plan.filter(pa.array(now.embedded[plan["row_id"].to_numpy()]))
    return report, threshold(_pairs(then, now, both, tables[0], options), options.max_cost)


def changed_links(then: pa.Table, now: pa.Table) -> tuple[int, int, int]:
    """Links (previous, this) of two tables of tracks: kept, lost and new.

    A detection that continues another one now has lost a link and has a new one.
    """
    names = ["detection_id", "previous_detection_id"]
    old, new = (
        table.select(names).filter(pc.is_valid(table["previous_detection_id"]))
        for table in (then, now)
    )
    kept = old.join(new, keys=names, join_type="inner").num_rows
    return kept, old.num_rows - kept, new.num_rows - kept


def threshold(pairs: Pairs, max_cost: float) -> Threshold:
    """Move ``max_cost`` from the old space to the new one; see ``report.Threshold``."""
    count, linked = len(pairs.then), int(pairs.linked.sum())
    within = int((pairs.then <= max_cost).sum())
    reason, suggested = None, None
    if not count:
        reason = "no two detections in neighbouring frames have an embedding in both runs"
    elif within in (0, count):
        reason = (
            f"{'all' if within else 'none'} of {count} pairs cost at most {max_cost:g}, so they "
            "do not say where a threshold lies"
        )
    else:
        ordered = np.sort(pairs.now)
        suggested = float((ordered[within - 1] + ordered[within]) / 2)
    shown = _histograms(pairs) if count else (None,) * 4
    return Threshold(
        reason=reason,
        max_cost=max_cost,
        suggested=suggested,
        pairs=count,
        linked=linked,
        within=within,
        linked_within_now=float((pairs.now[pairs.linked] <= max_cost).mean()) if linked else None,
        then=separation(pairs.then, pairs.linked),
        now=separation(pairs.now, pairs.linked),
        linked_then=shown[0],
        linked_now=shown[1],
        others_then=shown[2],
        others_now=shown[3],
    )


def separation(cost: Floats, linked: Bools) -> Separation | None:
    """Where one threshold parts linked pairs from the others best; None where there is one kind.

    Of thresholds that part them equally well the lowest counts.
    """
    if not linked.any() or linked.all():
        return None
    values = np.unique(cost)
    places: Floats = np.r_[values[0] - 1e-9, (values[1:] + values[:-1]) / 2, values[-1]]
    ours, others = np.sort(cost[linked]), np.sort(cost[~linked])
    inside: Floats = np.searchsorted(ours, places, side="right") / len(ours)
    outside: Floats = 1 - np.searchsorted(others, places, side="right") / len(others)
    best = int((inside + outside).argmax())
    return Separation(
        threshold=float(places[best]),
        balanced=float((inside[best] + outside[best]) / 2),
        linked_within=float(inside[best]),
        others_beyond=float(outside[best]),
    )


def has_tracks(run: Path) -> bool:
    """Whether ``run`` was linked."""
    return (run / "tracks" / "manifest.json").is_file()


def _link_options(then: Rows) -> tuple[LinkOptions, str | None]:
    """What the old run's tracks were made with; the defaults where it has none."""
    if not has_tracks(then.run.path):
        return LinkOptions(), None
    made = read_json(then.run.path / "tracks" / "manifest.json", TracksManifest)
    return made.options, made.score_column


def _pairs(then: Rows, now: Rows, plan: pa.Table, tracks: pa.Table, options: LinkOptions) -> Pairs:
    """Measure pairs of neighbouring frames in both spaces, drawn until there are many."""
    if not plan.num_rows:
        return Pairs(np.empty(0, bool), np.empty(0), np.empty(0))
    names = plan["sequence"].combine_chunks().dictionary_encode().indices.to_numpy()
    numbers = plan["frame"].to_numpy()
    edges = np.flatnonzero(np.r_[True, np.diff(names) != 0, True])
    meetings: list[tuple[slice, slice]] = []
    for start, stop in pairwise(edges.tolist()):
        frames = [
            slice(start + one.start, start + one.stop) for one in by_frame(numbers[start:stop])
        ]
        meetings += pairwise(frames)
    most_rows = max(2, _MOST_BYTES // (4 * max(then.dim, now.dim)))
    drawn: list[tuple[slice, slice]] = []
    rows = pairs = 0
    for number in np.random.default_rng(SEED).permutation(len(meetings)):
        one, two = meetings[number]
        m, n = one.stop - one.start, two.stop - two.start
        if drawn and (pairs + m * n > _MOST_PAIRS or rows + m + n > most_rows):
            break
        drawn.append((one, two))
        rows, pairs = rows + m + n, pairs + m * n
    wanted = np.unique([row for both in drawn for part in both for row in range(len(names))[part]])
    if not len(wanted):
        return Pairs(np.empty(0, bool), np.empty(0), np.empty(0))
    some = plan.take(pa.array(wanted))
    boxes, diagonals = _boxes_and_diagonals(then, some)
    row_ids = some["row_id"].to_numpy()
    looks = then.embeddings(row_ids), now.embeddings(row_ids)
    ids = some["detection_id"].to_pylist()
    tracks = tracks.filter(pc.is_in(tracks["detection_id"], some["detection_id"].combine_chunks()))
    ends = (tracks[name].to_pylist() for name in ("detection_id", "previous_detection_id"))
    previous = dict(zip(*ends, strict=True))
    linked, costs = [], ([], [])  # type: ignore[var-annotated]
    for parts in drawn:
        a, b = (np.searchsorted(wanted, np.arange(part.start, part.stop)) for part in parts)
        linked.append([previous[ids[this]] == ids[one] for one in a for this in b])
        for vectors, found in zip(looks, costs, strict=True):
            total = cost_terms(
                vectors[a],
                boxes[a],
                vectors[b],
                boxes[b],
                diagonal_px=float(diagonals[b[0]]),
                weights=options.weights,
            ).total
            found.append(total.ravel())
    return Pairs(np.concatenate(linked).astype(bool), *(np.concatenate(each) for each in costs))


def _boxes_and_diagonals(rows: Rows, plan: pa.Table) -> tuple[Floats, Floats]:
    """Boxes and diagonals of ``plan``, sorted by sequence."""
    names = plan["sequence"].combine_chunks().dictionary_encode().indices.to_numpy()
    edges = np.flatnonzero(np.r_[True, np.diff(names) != 0, True])
    found = [
        geometry(rows.run, plan.slice(start, stop - start))
        for start, stop in pairwise(edges.tolist())
    ]
    return (
        np.concatenate([one.boxes for one in found]),
        np.concatenate([one.diagonals for one in found]),
    )


def _histograms(pairs: Pairs) -> tuple[Histogram, Histogram, Histogram, Histogram]:
    """Of linked pairs then and now, and of the others; one scale for all four."""
    high = float(max(pairs.then.max(), pairs.now.max()))
    edges = np.linspace(0, max(high, 1e-6), _BINS + 1)
    groups = [
        costs[chosen]
        for chosen in (pairs.linked, ~pairs.linked)
        for costs in (pairs.then, pairs.now)
    ]
    one, two, three, four = (histogram(values, edges) for values in groups)
    return one, two, three, four


def _not_comparable(reason: str) -> tuple[LinksChanged, Threshold]:
    links = LinksChanged(
        reason=reason,
        options=None,
        then=0,
        now=0,
        kept=0,
        lost=0,
        new=0,
        changed=None,
        tracks_then=0,
        tracks_now=0,
    )
    none = Threshold(
        reason=reason,
        max_cost=None,
        suggested=None,
        pairs=0,
        linked=0,
        within=0,
        linked_within_now=None,
        then=None,
        now=None,
        linked_then=None,
        linked_now=None,
        others_then=None,
        others_now=None,
    )
    return links, none
