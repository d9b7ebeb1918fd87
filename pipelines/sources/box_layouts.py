"""Which columns of a table are boxes, by their names.

Names are compared without case, spaces and separators, and with anything before or after that all
four columns share: ``bbox_x1``, ``xMin``, ``box.left``, ``x1_px``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from itertools import chain
from typing import Literal, NamedTuple

from common.errors import SourceError
from pipelines.detections import BOX

Layout = Literal["xyxy", "xywh", "cxcywh"]
LAYOUTS: tuple[Layout, ...] = ("xyxy", "xywh", "cxcywh")

# The first corner, and the second one that goes with it.
_CORNERS = {
    ("x1", "y1"): ("x2", "y2"),
    ("x0", "y0"): ("x1", "y1"),
    ("xmin", "ymin"): ("xmax", "ymax"),
    ("minx", "miny"): ("maxx", "maxy"),
    ("left", "top"): ("right", "bottom"),
    ("xleft", "ytop"): ("xright", "ybottom"),
    ("xtl", "ytl"): ("xbr", "ybr"),
    ("topleftx", "toplefty"): ("bottomrightx", "bottomrighty"),
    ("x", "y"): None,
}
_CENTRES = (
    *(("cx", "cy"), ("xc", "yc"), ("xmid", "ymid"), ("xcenter", "ycenter")),
    *(("centerx", "centery"), ("xcentre", "ycentre"), ("centrex", "centrey")),
)
_SIZES = (("w", "h"), ("width", "height"))
_NUMBERS = ("0", "1", "2", "3")  # of a box that was a list
# Words that are not of boxes alone: three of four make a box in part, two do not.
_COMMON = {"x", "y", "left", "top", "right", "bottom", *chain(*_SIZES)}
_VOCABULARY = {
    *chain(*_CORNERS, *filter(None, _CORNERS.values()), *_CENTRES, *_SIZES),
    *(*_NUMBERS, "x3", "y3"),
}
_BOX_WORDS = ("bbox", "bboxes", "box", "boxes", "bb", "bndbox", "boundingbox", "rect", "roi")
_NOT_SIDES = {"id", "score", "conf", "confidence", "label", "class", "category", "area", "count"}
_GIVE = "give all four of x1, y1, x2, y2 (or xmin ymin xmax ymax, x y w h, cx cy w h)"
_SINGLE = (*_BOX_WORDS[:4], *_BOX_WORDS[5:], "rectangle")
_LAYOUT_WORDS: dict[str, Layout] = {name: name for name in LAYOUTS} | {
    "xyxyn": "xyxy",
    "xywhn": "cxcywh",  # as Ultralytics names centres
    "ltrb": "xyxy",
    "ltwh": "xywh",
    "tlwh": "xywh",
}


class BoxColumns(NamedTuple):
    """Columns that may be the boxes.

    Attributes:
        names: four, or one of lists, structs or text.
        layout: what the names say; None: nothing.
    """

    names: tuple[str, ...]
    layout: Layout | None


class _Group(NamedTuple):
    """Columns with the same words around a word of the vocabulary."""

    around: str
    columns: dict[str, str]  # by word


def find_four(names: Sequence[str]) -> list[BoxColumns]:
    """All sets of four columns that may be boxes.

    Raises:
        SourceError: they are four corners of a shape each, or a column stands twice.
    """
    groups = _groups(names)
    _refuse_quadrilaterals(groups)
    return list(dict.fromkeys(chain.from_iterable(map(_of_group, groups))))


def find_single(names: Sequence[str]) -> list[BoxColumns]:
    """Columns that may hold a whole box each, by their names alone."""
    return [
        BoxColumns((name,), next((_LAYOUT_WORDS[w] for w in words if w in _LAYOUT_WORDS), None))
        for name in names
        if (words := _words(name))
        and ({words[-1], words[0], "".join(words)} & {*_SINGLE, *_LAYOUT_WORDS})
    ]


def _words(name: str) -> list[str]:
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip())
    split = re.sub(r"[^a-z0-9]+", "_", split.lower())
    split = re.sub(r"(^|_)b_box", r"\1bbox", split).replace("bounding_box", "boundingbox")
    split = re.sub(r"(^|_)(boundingbox|bbox|box)(?=[a-z0-9])(?!es(_|$))", r"\1\2_", split)
    return [word for word in split.split("_") if word]


def _groups(names: Sequence[str]) -> list[_Group]:
    groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        for side, around, word in set(_readings(_words(name))):
            groups[side, around][word].append(name)
    result = []
    for (_, around), columns in groups.items():
        twice = [same for word, same in columns.items() if len(same) > 1 and word not in same]
        group = _Group(
            around, {word: word if word in same else same[0] for word, same in columns.items()}
        )
        if twice and any(set(each.names) & set(chain(*twice)) for each in _of_group(group)):
            raise SourceError(
                f"columns {_listed(twice[0])} have the same name but for case and spaces, and look "
                "like boxes; drop one of them"
            )
        result.append(group)
    return result


def _readings(words: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each way to read a name as a word of the vocabulary and what stands before or after it."""
    for length in range(1, min(3, len(words)) + 1):
        before, last = "".join(words[:-length]), "".join(words[-length:])
        first, after = "".join(words[:length]), "".join(words[length:])
        if last in _VOCABULARY:
            yield "before" if before else "", before, last
        if after and first in _VOCABULARY:
            yield "after", after, first


def _of_group(group: _Group) -> Iterator[BoxColumns]:
    """The boxes that are complete in a group; of two with the same first corner that of corners."""

    def complete(words: tuple[str, ...], layout: Layout | None) -> Iterator[BoxColumns]:
        if all(word in group.columns for word in words):
            yield BoxColumns(tuple(group.columns[word] for word in words), layout)

    for first, second in _CORNERS.items():
        corners = [] if second is None else list(complete((*first, *second), "xyxy"))
        yield from corners
        if not corners:
            for size in _SIZES:
                yield from complete((*first, *size), "xywh")
    for centre in _CENTRES:
        for size in _SIZES:
            yield from complete((*centre, *size), "cxcywh")
    if group.around in _BOX_WORDS or group.around.endswith(_BOX_WORDS[:4]):
        yield from complete(_NUMBERS, None)


def _refuse_quadrilaterals(groups: list[_Group]) -> None:
    for group in groups:
        if {"x1", "y1", "x2", "y2", "x3", "y3"} <= group.columns.keys():
            names = [group.columns[word] for word in ("x1", "y1", "x2", "y2", "x3", "y3")]
            raise SourceError(
                f"columns {_listed(names)} … are four corners of a shape, not boxes; give the left, "
                "top, right and bottom of each as x1, y1, x2, y2"
            )


def refuse_parts(names: Sequence[str]) -> None:
    """Refuse columns that look like boxes which are not known, or known in part.

    Raises:
        SourceError: there are some.
    """
    unknown = [
        name
        for name in names
        if (words := _words(name))[:1] and words[0] in ("bbox", "boundingbox", "bndbox")
        if len(words) > 1 and not set(words[1:]) & _NOT_SIDES
    ]
    if len(unknown) > 3:
        raise SourceError(f"columns {_listed(unknown)} look like boxes; {_GIVE}")
    for group in _groups(names):
        sides = group.columns.keys() - set(_NUMBERS)
        if _is_part(sides, group.around):
            part = [group.columns[side] for side in sorted(sides)]
            raise SourceError(
                f"columns {_listed(part)} look like a part of boxes; {_GIVE}, or give these columns "
                "other names"
            )


def _is_part(words: Set[str], around: str) -> bool:
    """Whether words of one group are a part of boxes rather than something else."""
    if around in _BOX_WORDS and len(words) > 1:
        return True
    if not around and words & set(BOX):  # the names of the contract
        return True
    for first, second in _CORNERS.items():
        if any(len(words & {*first, *rest}) == 3 for rest in (second, *_SIZES) if rest):
            return True
        plain = words & {*first, *(second or ())} - _COMMON
        if any("x" in word for word in plain) and any("y" in word for word in plain):
            return True
    return any(len(words & {*centre, *size}) == 3 for centre in _CENTRES for size in _SIZES)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
