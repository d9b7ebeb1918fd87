"""Which format a file of annotations has, by its content, and its plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.compute as pc

from common.errors import SourceError, first_line
from common.moved import Pairs, apply_pairs
from common.sampling import spread
from common.storage import to_path
from pipelines.detections import complete
from pipelines.frame_names import parse_frame
from pipelines.sources.annotations.camtrap_dp import is_camtrap_dp, read_camtrap_dp
from pipelines.sources.annotations.coco import is_coco, read_coco
from pipelines.sources.annotations.cvat import read_cvat
from pipelines.sources.annotations.label_studio import is_label_studio, read_label_studio
from pipelines.sources.annotations.megadetector import is_megadetector, read_megadetector
from pipelines.sources.annotations.mot import is_mot, read_mot
from pipelines.sources.annotations.rows import PROBLEM, Rows
from pipelines.sources.annotations.xml import parse_xml
from pipelines.sources.boxes import BoxesGiven, BoxOptions
from pipelines.sources.plan import Plan

FORMATS = "MegaDetector, COCO, Label Studio, Camtrap DP (JSON), CVAT (XML), MOTChallenge (text)"
_JSON_LINES = (".jsonl", ".ndjson")
_HEAD_BYTES = 4096
_TRIED = 100  # names that are looked for


def is_annotations(path: Path) -> bool:
    """Whether a file is one of annotations, by its first bytes, rather than a table."""
    suffix = path.suffix.lower()
    if suffix in (".parquet", *_JSON_LINES) or not path.is_file():
        return False
    if suffix in (".json", ".xml"):
        return True
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return False
    if head[:1] in (b"{", b"<") or head[:2] in (b"[{", b"[\n"):
        return True
    return is_mot(head.decode("utf-8", "replace"))


def read_annotations(path: Path, options: BoxOptions, pairs: Pairs = ()) -> Plan:
    """The plan of a file of annotations, with its boxes as they are given.

    Args:
        path: the file; names of images start from its folder.
        options: what the user says of the boxes.
        pairs: of folders of images that were moved, this one among them.

    Raises:
        SourceError: it is of no known format, or none of its images is there.
    """
    if options.layout or options.units:
        raise SourceError(
            f"{path} says itself how its boxes are laid out; leave `boxes` and `box_units` out"
        )
    rows, given, root = _read(path, pairs)
    if not len(rows):
        remarks = "".join(f"; {note}" for note in rows.notes)
        raise SourceError(f"{path} has no boxes; there is nothing to extract{remarks}")
    table = rows.to_table()
    given = replace(given, frame=options.frame or given.frame, sizes=rows.sizes)
    own = frozenset(table.column_names) - {PROBLEM}
    table = complete(table, where=str(path), folder=root.name)
    table = table.rename_columns({PROBLEM: "error"})
    plan = Plan(table, root, {}, tuple(rows.notes), given=own, pairs=pairs, boxes=given)
    _require_an_image(plan, path)
    return plan


def _read(path: Path, pairs: Pairs) -> tuple[Rows, BoxesGiven, Path]:
    """The rows of a file, how its boxes are given, and the folder that its images start from."""
    where, folder = str(path), path.parent.resolve()
    root = to_path(apply_pairs(pairs, str(folder)))
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {first_line(error)}") from None
    head = data[:_HEAD_BYTES].lstrip()
    try:
        if head[:1] == b"<":
            return *read_cvat(parse_xml(data), where, root), root
        if head[:1] in (b"{", b"["):
            return *_read_json(_parse_json(data), where, folder, root), root
        text = data.decode()
    except ValueError as error:
        raise SourceError(f"{path} cannot be read: {first_line(error)}") from None
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        # A file of a known kind whose parts are not what they are in its format.
        raise SourceError(f"{path} is not as its format says: {error!r}; is it damaged?") from None
    if is_mot(text):
        return read_mot(text, path, pairs)
    raise SourceError(f"{path} is of no known format; known are {FORMATS}, and tables")


def _parse_json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)  # NaN is not JSON, but Python's json writes it


def _read_json(document: Any, where: str, folder: Path, root: Path) -> tuple[Rows, BoxesGiven]:
    if is_camtrap_dp(document):
        return read_camtrap_dp(document, where, folder)
    if is_megadetector(document):
        return read_megadetector(document, where)
    if is_coco(document):
        return read_coco(document, where)
    if is_label_studio(document):
        return read_label_studio(document, where, root)
    first = document[0] if isinstance(document, list) and document else {}
    hint = ""
    if isinstance(first, dict) and {"image_id", "bbox"} <= first.keys():
        hint = "; these are results of COCO, which do not name images: put them as 'annotations' beside 'images'"
    elif isinstance(first, dict) and "image" in first and not isinstance(first.get("label"), list):
        hint = "; write a table as JSON Lines (.jsonl), one object a line"
    elif isinstance(first, dict) and "image" in first:
        hint = "; export from Label Studio as JSON, not as JSON-MIN"
    elif isinstance(document, dict) and "shapes" in document:
        hint = (
            "; this is of labelme or X-AnyLabeling, with polygons or rotated boxes: export as COCO"
        )
    raise SourceError(f"{where} is JSON of no known format; known are {FORMATS}{hint}")


def _require_an_image(plan: Plan, path: Path) -> None:
    """Refuse a file none of whose images is there, rather than answer errors only.

    Raises:
        SourceError: none is.
    """
    usable = plan.table.filter(pc.is_null(plan.table["error"]))
    names = [
        frame.file if (frame := parse_frame(name)) else name
        for name in pc.unique(usable["image"]).to_pylist()
    ]
    if not names or any(plan.images.path(n).exists() for n in (*spread(names, _TRIED), *names)):
        return
    first = plan.images.path(names[0])
    old = path.parent.resolve() if first.is_relative_to(plan.root) else first.parent
    raise SourceError(
        f"{path}: none of its {len(names)} images is there, as {first}; "
        f"`images='{old}=FOLDER'` says where they are"
    )
