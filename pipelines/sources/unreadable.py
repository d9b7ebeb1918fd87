"""Images that are not where a source says: where they were looked for, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

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
        f"not one image of {source} can be read: "
        f"{where_looked(pc.unique(names).to_pylist(), plan.images)}"
    )


def where_looked(names: Iterable[str], images: ImageRoot) -> str:
    """Where images were looked for that could not be read, for a message with what to do.

    Args:
        names: of the images, as in a plan.
        images: where they are.
    """
    files = [images.path(part.file if (part := parse_frame(name)) else name) for name in names]
    folders = list(dict.fromkeys(file.parent for file in files))
    others = len(folders) - _NAMED
    more = f" and {others} other folder{'s' * (others > 1)}" if others > 0 else ""
    looked = f"looked in {', '.join(map(str, folders[:_NAMED]))}{more}"
    if is_remote(files[0]):
        return f"{looked}; `images='OLD=NEW'` says where a folder is now"
    if files[0].exists():
        return f"{looked}; give this user the right to read {files[0]}"
    local = [str(folder) for folder in folders if not is_remote(folder)]
    shared = Path(os.path.commonpath(local))
    old = folders[0] if shared.exists() else shared
    missing = [path for path in (*reversed(old.parents), old) if not path.exists()]
    there = f", and there is no {missing[0]}" if missing else ""
    return f"{looked}{there}; `images='{old}=NEW'` says where that folder is now"
