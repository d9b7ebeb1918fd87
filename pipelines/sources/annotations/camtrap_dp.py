"""Camtrap DP: ``datapackage.json`` with tables of media and observations; boxes are shares.

The standard counts boxes from the left top of the media as they are shown.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import SourceError
from pipelines.sources.annotations.rows import LABEL, TRACK, Rows, number, text, time_of
from pipelines.sources.boxes import BoxesGiven

_BOX = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")


def is_camtrap_dp(document: Any) -> bool:
    """Whether a JSON document describes a Camtrap DP."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("resources"), list)
        and "camtrap-dp" in str(document.get("profile"))
    )


def read_camtrap_dp(document: Any, where: str, folder: Path) -> tuple[Rows, BoxesGiven]:
    """The rows of a data package.

    Args:
        document: ``datapackage.json``.
        where: its path, for error messages.
        folder: that holds its tables.

    Raises:
        SourceError: there is no table of media or of observations.
    """
    rows = Rows((LABEL, TRACK))
    media = {row["mediaID"]: row for row in _table(document, "media", where, folder)}
    used: set[str] = set()
    events = 0
    for row in _table(document, "observations", where, folder):
        medium = media.get(row.get("mediaID") or "")
        if medium is None and not row.get("mediaID"):
            events += 1
            continue
        used.add(row["mediaID"])
        box = [number(row.get(side)) for side in _BOX]
        columns = {
            LABEL: text(row.get("scientificName")) or text(row.get("observationType")),
            TRACK: text(row.get("individualID")),
        }
        if medium is None:
            problem = f"no image: medium {row['mediaID']} is not in the table of media"
            rows.add("(no image)", problem=problem, **columns)
            continue
        rows.add(
            _path(medium),
            None if box == [None] * 4 else box,
            sequence=text(row.get("deploymentID")),
            timestamp=time_of(medium.get("timestamp")),
            **columns,
        )
    rows.note(events, "observations are of events, not of media, and no row")
    rows.note(len(media.keys() - used), f"of {len(media)} media have no observation, and no row")
    because = "because Camtrap DP counts from the left top of what is shown"
    return rows, BoxesGiven("normalised", because=because)


def _path(medium: dict[str, str]) -> str:
    path = medium.get("filePath") or ""
    if path.startswith(("http://", "https://")):  # a file of that name may be beside the tables
        return medium.get("fileName") or path.rsplit("/", 1)[-1]
    return path or medium.get("fileName") or medium["mediaID"]


def _table(document: Any, name: str, where: str, folder: Path) -> Iterator[dict[str, str]]:
    paths = [
        each.get("path")
        for each in document["resources"]
        if isinstance(each, dict) and each.get("name") == name
    ]
    if not paths or not isinstance(paths[0], str) or not (folder / paths[0]).is_file():
        raise SourceError(f"{where}: the table {name!r} is not there ({paths or 'not named'})")
    with (folder / paths[0]).open(newline="", encoding="utf-8-sig") as stream:
        yield from csv.DictReader(stream)
