"""``onepass demo``: a real clip of eight fish from frames to tracks, with the Python API."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onepass
from onepass.demo_clip import CREDIT, FISH, SEQUENCE, fetch_clip, find_fish
from pipelines.detections import BOX

if TYPE_CHECKING:
    import pandas as pd

SECOND = 28  # frames

Log = Callable[[str], None]


@dataclass(frozen=True)
class DemoReport:
    """Results of the demo; ``seconds`` is the wall time of this call."""

    out: Path
    frames: int
    rows: int
    failed: int
    images_per_second: float  # of the extraction, start-up included
    recall: float | None  # recall@10 measured while the index was built
    tracks: int
    longest_share: float  # share of all detections in the eight longest tracks
    pictures: tuple[Path, ...]
    seconds: float


def run_demo(out: Path, cache: Path, *, log: Log = lambda _: None) -> DemoReport:
    """Extract, index and link one short clip; a second call reuses the files of the first.

    Args:
        out: gets ``frames/``, ``detections.csv``, ``run/``, ``index/`` and two pictures.
        cache: folder that keeps the download.
        log: called with one line at each stage.

    Raises:
        InputError: OpenCV is not installed, or ``out`` holds other files.
        WorkError: the clip cannot be downloaded.
    """
    started = time.monotonic()
    manifest = out / "detections.csv"
    if manifest.is_file():
        log(f"frames and boxes: reusing {manifest}")
    else:
        log(f"clip: {CREDIT}")
        frames, boxes = find_fish(fetch_clip(cache), out)
        log(f"frames and boxes: {frames} frames, {boxes} boxes in {manifest}")
    log(f"extract: {manifest} with lite0 into {out / 'run'}")
    run = onepass.extract(manifest, "lite0", out / "run", hdf5=True)
    rows, speed = run.manifest.rows, len(run) / run.manifest.seconds
    log(
        f"extract: {len(run)} rows, {rows.failed} failed, {speed:.0f} images/s with start-up; "
        "Parquet and features.h5"
    )
    stored = out / "index"
    index = onepass.open_index(stored) if stored.exists() else onepass.build_index(run, stored)
    recall = index.manifest.recall.measured
    measured = "not measured" if recall is None else f"{recall:.3f}"
    log(f"index: {len(index)} rows, {index.manifest.factory}, recall@10 {measured}")
    tracks = onepass.link(run)
    log(f"link: {tracks.summary.detections} detections, {len(tracks)} tracks")
    pictures = (out / "tracks.png", out / "neighbours.png")
    tracks.draw(SEQUENCE).save(pictures[0])
    table = tracks.to_pandas()
    _draw_neighbours(run, index, table, pictures[1])
    report = DemoReport(
        out=out,
        frames=table["frame"].nunique(),
        rows=len(run),
        failed=rows.failed,
        images_per_second=speed,
        recall=recall,
        tracks=len(tracks),
        longest_share=float(table["track_id"].value_counts()[:FISH].sum() / len(table)),
        pictures=pictures,
        seconds=time.monotonic() - started,
    )
    log(
        f"demo: {report.rows} rows, {speed:.0f} images/s, recall@10 {measured}, "
        f"{report.tracks} tracks, in {report.seconds:.0f} s"
    )
    log(f"pictures: {pictures[0]} and {pictures[1]}")
    return report


def _draw_neighbours(
    run: onepass.Run,
    index: onepass.Index,
    tracks: pd.DataFrame,
    picture: Path,
    *,
    queries: int = 6,
    wanted: int = 7,
) -> None:
    """A row for each of the longest tracks: a crop, and its nearest from other moments of the clip.

    Neighbouring frames of one fish are nearly the same picture, so all crops of a row are at least
    a second apart.
    """
    # late: Pillow takes a while
    from PIL import Image

    from tracks.pictures.sheet import GREEN, INK, RED, Tile, contact_sheet

    rows = run.to_pandas(["detection_id", "image", *BOX]).merge(tracks, on="detection_id")
    row_of = {row.detection_id: row for row in rows.itertuples()}

    def tile(row: Any, score: float | None, track: str) -> Tile:
        rank = "query" if score is None else f"{score:.3f}"
        caption = f"{rank}, track {row.track_id.rpartition(':')[2]}\nframe {row.frame}"
        with Image.open(run.image_path(row.image)) as image:
            crop = image.crop((row.x1, row.y1, row.x2, row.y2))
        border = INK if score is None else GREEN if row.track_id == track else RED
        return Tile(crop, caption, border)

    sheet = []
    for track in rows["track_id"].value_counts().index[:queries]:
        members = rows.loc[rows["track_id"] == track, "detection_id"].to_list()
        query = row_of[members[len(members) // 2]]
        shown, tiles = [query], [tile(query, None, track)]
        hits = index.neighbors(query.detection_id, k=800)
        for near, score in zip(hits.ids, hits.scores, strict=True):
            row = row_of[near]
            if all(abs(row.frame - other.frame) >= SECOND for other in shown):
                shown.append(row)
                tiles.append(tile(row, score, track))
            if len(shown) > wanted:
                break
        sheet.append(tiles)
    title = "Nearest crops a second or more apart: green is the query's track, red another"
    contact_sheet(sheet, title=title).save(picture)
