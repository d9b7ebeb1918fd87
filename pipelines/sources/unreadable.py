"""Images that are not where a source says: where they were looked for, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import FileAccessError
from common.moved import ImageRoot
from common.storage import is_remote
from pipelines.detections import IMAGE_HASH
from pipelines.frame_names import parse_frame
from pipelines.sources.plan import Plan

UNREAD = ("missing file", "unreadable file")  # errors that say nothing of the image's content
_NAMED = 3  # folders


def check_readable(plan: Plan, source: str) -> None:
    """Refuse a source of which not one image can be opened: there is nothing to answer.

    Args:
        plan: with ``image_hash``.
        source: its name, for the message.

    Raises:
        FileAccessError: none can.
    """
    table = plan.table
    if table[IMAGE_HASH].null_count < table.num_rows:
        return
    names = table["image"]
    if "error" in table.column_names:  # what the plan knows already is no file
        known = table.filter(pc.is_null(table["error"]))["image"]
        names = known if len(known) else names
    raise FileAccessError(
        f"not one image of {source} can be read: {where_looked(pc.unique(names), plan.images)}"
    )


def where_looked(names: pa.Array | Iterable[str], images: ImageRoot) -> str:
    """Where images were looked for that could not be read, for a message with what to do.

    Args:
        names: of the images, as in a plan.
        images: where they are.
    """
    given = names.to_pylist() if isinstance(names, pa.Array | pa.ChunkedArray) else list(names)
    named = [frame.file if (frame := parse_frame(name)) else name for name in given]
    files = [images.path(name) for name in named]
    folders = list(dict.fromkeys(file.parent for file in files))
    more = f" and {len(folders) - _NAMED} other folders" if len(folders) > _NAMED else ""
    looked = f"looked in {', '.join(map(str, folders[:_NAMED]))}{more}"
    if is_remote(files[0]):
        return f"{looked}; `images='OLD=NEW'` says where a folder is now"
    if files[0].exists():
        return f"{looked}; give this user the right to read {files[0]}"
    gone = _first_missing(folders[0])
    old = gone or folders[0]
    there = f", and there is no {gone}" if gone else ""
    return f"{looked}{there}; `images='{old}=NEW'` says where that folder is now"


def _first_missing(folder: Path) -> Path | None:
    """The highest folder above ``folder``, or itself, that is not there."""
    above = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    return above[0] if above else None
