"""The boxes of a table, however they are written, as x1, y1, x2, y2.

What its columns are called says how they are laid out, where it can be told; ``boxes``,
``box_units`` and ``box_frame`` say the rest. What looks like boxes and is not understood is refused,
because a whole image in place of a box is a wrong answer that nothing shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import SourceError, first_line
from pipelines.detections import BOX
from pipelines.images.header import Boxes
from pipelines.sources.box_layouts import (
    BoxColumns,
    Layout,
    find_four,
    find_single,
    refuse_parts,
)

Bools = NDArray[np.bool_]
Units = Literal["pixels", "normalised"]
Frame = Literal["upright", "stored"]

_MOST_NORMALISED, _LEAST_NORMALISED = 1.5, -0.5  # a detector's boxes may lie a little outside
_MANY = 0.1  # of all boxes; fewer are a detector's bad ones
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf(?:inity)?)"
_FOUR_NUMBERS = re.compile(
    rf"\s*[\[({{]?\s*({_NUMBER})[\s,;]+({_NUMBER})[\s,;]+({_NUMBER})[\s,;]+({_NUMBER})\s*[\])}}]?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class BoxOptions:
    """What the user says of the boxes; None: what the source says."""

    layout: Layout | None = None
    units: Units | None = None
    frame: Frame | None = None


@dataclass(frozen=True)
class BoxesGiven:
    """How the boxes of a plan are given that are not in pixels of the upright image yet.

    Attributes:
        units: of the four corners.
        frame: of which image they are; None: what ``sizes`` say, and ``fallback`` where they cannot.
        fallback: the frame where nothing tells.
        sizes: width and height of images by name, as the source has them.
        because: why they are of that frame, for a remark.
    """

    units: Units = "pixels"
    frame: Frame | None = "upright"
    fallback: Frame = "upright"
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    because: str = ""


def to_corners(boxes: Boxes, layout: Layout) -> Boxes:
    """Boxes ``[N, 4]`` of a layout as x1, y1, x2, y2."""
    if layout == "xyxy":
        return boxes
    first, size = boxes[:, :2], boxes[:, 2:]
    if layout == "cxcywh":
        first = first - size / 2
    return np.concatenate([first, first + size], axis=1)


def read_boxes(
    table: pa.Table, options: BoxOptions, where: str
) -> tuple[pa.Table, Units, tuple[str, ...]]:
    """A table with its boxes as x1, y1, x2, y2, the units of these, and remarks for people.

    A table without boxes, or without images, stays as it is.

    Args:
        table: of a manifest, as it was read.
        options: what the user says.
        where: the source, for error messages.

    Raises:
        SourceError: the boxes cannot be told, or are not what was said of them.
    """
    if "image" not in table.column_names:
        return table, "pixels", ()  # which is refused, whatever else it has
    chosen, notes = _choose(table, options, where)
    if chosen is None:
        if options.layout or options.units:
            raise SourceError(
                f"{where} has no columns that look like boxes (it has "
                f"{', '.join(table.column_names)}); leave `boxes` and `box_units` out"
            )
        return table, "pixels", ()
    layout = options.layout or chosen.layout
    if layout is None:
        raise SourceError(
            f"{where}: column{'s' * (len(chosen.names) > 1)} {', '.join(chosen.names)} hold boxes, "
            "and nothing says of which layout; set `boxes` to xyxy, xywh or cxcywh"
        )
    values = _values(table, chosen, where)
    units = _checked_units(values, options.units, where)
    corners = to_corners(values, layout)
    notes += tuple(_doubts(values, corners, layout, units))
    plain = chosen.names == BOX and layout == "xyxy"
    if plain and units == "pixels":
        return table, units, notes
    if not plain or options.layout or options.units:
        notes = (_reading(chosen, layout, units, layout_given=bool(options.layout)), *notes)
    return _with_corners(table, chosen, corners), units, notes


def _choose(
    table: pa.Table, options: BoxOptions, where: str
) -> tuple[BoxColumns | None, tuple[str, ...]]:
    """The columns that are the boxes, and a remark on others that look like boxes as well."""
    names = table.column_names
    try:
        four = find_four(names)
        single = [column for each in find_single(names) if (column := _single(table, each))]
        if not (four or single):
            refuse_parts(names)
    except SourceError as error:
        raise SourceError(f"{where}: {error}") from None
    candidates = [*four, *single]
    own = BoxColumns(BOX, "xyxy")
    layout = options.layout
    other = layout not in (None, "xyxy") and any(each.layout == layout for each in candidates)
    filled = own in candidates and any(table[name].null_count < table.num_rows for name in BOX)
    if filled and not other:
        others = sorted({name for each in candidates for name in each.names} - set(BOX))
        more = f"; {', '.join(others)} are kept as columns of your own" if others else ""
        return own, (f"{where}: x1, y1, x2, y2 are the boxes{more}",) if others else ()
    if len(candidates) > 1 and layout:
        candidates = [each for each in candidates if each.layout == layout] or candidates
    if len(candidates) > 1:
        sets = " and ".join(f"({', '.join(each.names)})" for each in candidates)
        raise SourceError(
            f"{where}: the columns {sets} look like boxes each; drop or rename what is not, or say "
            "which with `boxes`, if their layouts differ"
        )
    return (candidates[0] if candidates else None), ()


def _single(table: pa.Table, column: BoxColumns) -> BoxColumns | None:
    """The same column if its values are boxes; None if it is of another matter."""
    (name,) = column.names
    kind = table.schema.field(name).type
    if pa.types.is_struct(kind):
        fields = [field.name for field in kind]
        inner = find_four(fields)
        return BoxColumns((name,), inner[0].layout) if len(inner) == 1 else None
    if not (_is_list(kind) or _is_text(kind)):
        return None
    values = list(_four_values(table[name]))
    if any(value is not None and not np.isnan(value[0]) for value in values):
        return column
    if _is_list(kind) and table[name].null_count < table.num_rows:
        raise SourceError(
            f"column {name!r} is {kind} and looks like boxes; give one box of four numbers a row"
        )
    return None


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_NONE = (np.nan,) * 4


def _four_values(column: pa.ChunkedArray) -> Iterator[tuple[float, ...] | None]:
    """Four numbers of each row; None: it is empty; NaN: it is no box."""
    kind = column.type
    order: tuple[str, ...] = ()
    if pa.types.is_struct(kind):
        order = find_four([field.name for field in kind])[0].names
    for value in column.to_pylist():
        if value is None or value == "":
            yield None
        elif isinstance(value, str):
            yield _parsed(value)
        elif isinstance(value, dict):
            yield _floats([value[name] for name in order])
        else:
            yield _floats(value)


def _parsed(text: str) -> tuple[float, ...]:
    if match := _FOUR_NUMBERS.fullmatch(text):
        return tuple(float(number) for number in match.groups())
    if text.lstrip().startswith("["):
        try:
            return _floats(json.loads(text))
        except (ValueError, RecursionError):
            return _NONE
    return _NONE


def _floats(values: Any) -> tuple[float, ...]:
    numbers = [value for value in values if isinstance(value, int | float)]
    return tuple(map(float, numbers)) if len(numbers) == len(values) == 4 else _NONE


def _values(table: pa.Table, columns: BoxColumns, where: str) -> Boxes:
    """The four numbers of each row, float64 ``[N, 4]``; NaN where one is missing or none."""
    if len(columns.names) == 1:
        column = table[columns.names[0]]
        return np.array([each or _NONE for each in _four_values(column)], np.float64).reshape(-1, 4)
    sides = []
    for name in columns.names:
        column = table[name]
        if _is_text(column.type):
            text = pc.utf8_trim_whitespace(column)
            column = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
        try:
            side = column.cast(pa.float64(), safe=False)
        except pa.ArrowException as error:
            raise SourceError(
                f"{where}: column {name!r} is {column.type} and cannot be read as numbers of boxes "
                f"({first_line(error)})"
            ) from None
        sides.append(side.to_numpy())
    return np.stack(sides, axis=1) if sides else np.empty((0, 4))


def _checked_units(values: Boxes, given: Units | None, where: str) -> Units:
    """The units of four numbers, which must not contradict what was said.

    Raises:
        SourceError: they do, or are from 0 to 1 and nothing was said.
    """
    finite = values[np.isfinite(values).all(axis=1)]
    if given == "normalised":
        wrong = ((finite > _MOST_NORMALISED) | (finite < _LEAST_NORMALISED)).any(axis=1)
        if wrong.any():
            first = [float(side) for side in finite[wrong][0]]
            raise SourceError(
                f"{where}: {wrong.sum()} of {len(finite)} boxes are not within 0 to 1, the first "
                f"{first}, so they are not normalised; set `box_units='pixels'`"
            )
    within, whole = _within_one(finite)
    if given is None and within.all() and not whole.all():
        raise SourceError(
            f"{where}: all boxes lie within 0 to 1, the first {[float(s) for s in finite[0]]}; set "
            "`box_units='normalised'` if these are shares of width and height, or "
            "`box_units='pixels'`"
        )
    return given or "pixels"


def _within_one(finite: Boxes) -> tuple[Bools, Bools]:
    """Rows within 0 to 1 or a little outside, and rows of whole numbers, as pixels may be."""
    within = (finite >= _LEAST_NORMALISED) & (finite <= _MOST_NORMALISED)
    whole = finite == np.round(finite)
    return np.asarray(within.all(axis=1)), np.asarray(whole.all(axis=1))


def _doubts(values: Boxes, corners: Boxes, layout: Layout, units: Units) -> Iterator[str]:
    usable = np.isfinite(corners).all(axis=1)
    total = int(usable.sum())
    if not total:
        return
    within, whole = _within_one(values[usable])
    small = int((within & ~whole).sum())
    if units == "pixels" and 0 < small < total:
        yield f"{small} of {total} boxes lie within 0 to 1; they are taken as pixels, as the others"
    turned = int((corners[usable, 2:] <= corners[usable, :2]).any(axis=1).sum())
    if turned > _MANY * total:
        hint = "; are they widths? `boxes='xywh'` reads them so" if layout == "xyxy" else ""
        yield f"{turned} of {total} boxes end before they begin and are rows with an error{hint}"


def _reading(columns: BoxColumns, layout: Layout, units: Units, *, layout_given: bool) -> str:
    meaning = {
        "xyxy": "left, top, right, bottom",
        "xywh": "left, top, width, height",
        "cxcywh": "centre x, centre y, width, height",
    }[layout]
    unit = "pixels" if units == "pixels" else "shares of the image's width and height"
    other = "" if layout_given or columns.names == BOX else "; `boxes` reads them in another way"
    return f"{', '.join(columns.names)} are read as boxes: {meaning}, in {unit}{other}"


def _with_corners(table: pa.Table, columns: BoxColumns, corners: Boxes) -> pa.Table:
    """The table with x1, y1, x2, y2 in place of columns that are these but for case and spaces."""
    same = [name for name in table.column_names if name.strip().casefold() in BOX]
    empty = np.isnan(corners)
    if len(columns.names) == 1:
        given = table[columns.names[0]]
        none = given.is_null().to_numpy()
        if _is_text(given.type):
            none |= pc.equal(given, "").fill_null(False).to_numpy()
        empty = np.repeat(none[:, None], 4, axis=1)
    else:
        # NaN that was given stays: it is an invalid box, and not a missing one.
        null = np.stack([table[name].is_null().to_numpy() for name in columns.names], axis=1)
        empty = null.all(axis=1, keepdims=True) | (empty & null)
    table = table.drop_columns(same)
    with np.errstate(over="ignore"):  # infinite; an error row when its image is decoded
        sides = corners.astype(np.float32)
    for side, name in enumerate(BOX):
        table = table.append_column(name, pa.array(sides[:, side], mask=empty[:, side]))
    return table
