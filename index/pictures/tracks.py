"""The tracks of one sequence in one picture, drawn over their scene.

Everything is drawn at twice the size and reduced, because Pillow's lines are not smooth.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from index.pictures.style import GREY, INK, PAPER, Colour, colours, disc, letters

FEW_FRAMES = 12  # up to here every box is drawn, and a track of two is worth a colour
SHORT = 5  # shorter tracks of longer clips are thin and grey
LEGEND_LINES = 28
_OVERSAMPLE = 2


def draw_tracks(
    background: Image.Image,
    *,
    frames: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.floating],
    tracks: Sequence[str],
    title: str = "",
    max_side_px: int = 2000,
) -> Image.Image:
    """Draw the tracks of one sequence over a scene, with a legend at the right.

    A track is a line through its box centres, from a ring to a disc; a dotted stretch is
    where frames were missing. Up to ``FEW_FRAMES`` frames, every box is drawn too, the later
    the stronger. Colours go to the longest tracks first.

    Args:
        background: one frame or a median of them, in the pixels of the boxes.
        frames: frame number of each detection ``[N]``.
        boxes: ``[N, 4]`` in pixels of ``background``.
        tracks: track id of each detection; the part after the last colon is shown.
        title: first line of the legend.
        max_side_px: the scene is reduced to this, so that widths look alike at any size.
    """
    scale = min(1.0, max_side_px / max(background.size)) * _OVERSAMPLE
    size = (round(background.width * scale), round(background.height * scale))
    scene = ImageOps.grayscale(background).convert("RGB").resize(size)
    scene = Image.blend(scene, Image.new("RGB", size, PAPER), 0.25)
    unit = max(_OVERSAMPLE, round(max(size) / 700))
    pen = ImageDraw.Draw(scene, "RGBA")
    few = len(np.unique(frames)) <= FEW_FRAMES
    step = int(np.diff(np.unique(frames)).min(initial=1 << 30))
    members = _by_length(frames, tracks)
    tints = _tints(members, 2 if few else SHORT)
    scaled = np.asarray(boxes, dtype=np.float64) * scale
    for track, rows in reversed(members):  # the longest on top
        thin = tints[track] == GREY
        if few:
            _boxes(pen, scaled[rows], frames[rows], int(frames.max()), tints[track], unit)
        centres = (scaled[rows, :2] + scaled[rows, 2:]) / 2
        _path(pen, centres, np.diff(frames[rows]) > step, tints[track], unit if thin else 2 * unit)
        if not thin:
            _ends(pen, centres, tints[track], 4 * unit)
    sheet = _with_legend(scene, members, tints, title, unit)
    return sheet.reduce(_OVERSAMPLE)


def _by_length(
    frames: npt.NDArray[np.int64], tracks: Sequence[str]
) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Track id and its rows in frame order, longest track first, then by id."""
    rows: dict[str, list[int]] = {}
    for row in np.argsort(frames, kind="stable").tolist():
        rows.setdefault(tracks[row], []).append(row)
    ordered = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(track, np.array(its)) for track, its in ordered]


def _tints(members: list[tuple[str, npt.NDArray[np.int64]]], short: int) -> dict[str, Colour]:
    long = sum(len(rows) >= short for _, rows in members)
    tints = [*colours(long), *[GREY] * (len(members) - long)]
    return {track: tint for (track, _), tint in zip(members, tints, strict=True)}


def _path(
    pen: ImageDraw.ImageDraw,
    centres: npt.NDArray[np.float64],
    missing: npt.NDArray[np.bool_],
    tint: Colour,
    width: int,
) -> None:
    stretches = np.split(centres, np.flatnonzero(missing) + 1)
    for stretch in stretches:
        if len(stretch) > 1:
            pen.line([tuple(point) for point in stretch.tolist()], tint, width, joint="curve")
    for before, after in pairwise(stretches):
        dots = max(2, int(np.hypot(*(after[0] - before[-1])) / (3 * width)))
        for share in np.linspace(0, 1, dots):
            disc(pen, before[-1] + share * (after[0] - before[-1]), width / 2, tint)


def _ends(
    pen: ImageDraw.ImageDraw, centres: npt.NDArray[np.float64], tint: Colour, radius: float
) -> None:
    disc(pen, centres[0], radius, PAPER, tint)
    disc(pen, centres[-1], radius, tint, PAPER)


def _boxes(
    pen: ImageDraw.ImageDraw,
    boxes: npt.NDArray[np.float64],
    frames: npt.NDArray[np.int64],
    last: int,
    tint: Colour,
    unit: int,
) -> None:
    font = letters(7 * unit)
    numbered = np.full(2, -np.inf)
    for box, frame in zip(boxes.tolist(), frames.tolist(), strict=True):
        strength = 255 if frame == last else 130
        pen.rectangle(box, outline=(*tint, strength), width=unit)
        if np.abs(numbered - box[:2]).max() < 8 * unit:
            continue  # it stood still: the numbers would lie on each other
        numbered = np.array(box[:2])
        pen.text((box[0] + 2 * unit, box[1] + unit), str(frame), fill=(*tint, 255), font=font)


def _with_legend(
    scene: Image.Image,
    members: list[tuple[str, npt.NDArray[np.int64]]],
    tints: dict[str, Colour],
    title: str,
    unit: int,
) -> Image.Image:
    font = letters(9 * unit)
    line = round(font.size * 1.5)
    named = [(track, rows) for track, rows in members if tints[track] != GREY]
    fits = max(1, min(LEGEND_LINES, scene.height // line - 4))
    rest = len(members) - len(named[:fits])
    texts = [f"{track.rpartition(':')[2]}  {len(rows)}" for track, rows in named[:fits]]
    tail = [f"{rest} shorter"] if rest else []
    head = [title] if title else []
    text_width = max((font.getlength(text) for text in [*head, *texts, *tail]), default=0)
    margin = 2 * line
    sheet = Image.new("RGB", (scene.width + round(text_width) + 2 * margin, scene.height), PAPER)
    sheet.paste(scene, (0, 0))
    pen = ImageDraw.Draw(sheet)
    x, y = scene.width + line // 2, line // 2
    for text in head:
        pen.text((x, y), text, fill=INK, font=font)
        y += round(1.3 * line)
    inks = [tints[track] for track, _ in named[:fits]] + [GREY] * len(tail)
    for text, tint in zip([*texts, *tail], inks, strict=True):
        pen.rectangle((x, y + line // 4, x + line, y + line // 2 + 2), fill=tint)
        pen.text((x + round(1.4 * line), y), text, fill=INK, font=font)
        y += line
    even = (sheet.width - sheet.width % _OVERSAMPLE, sheet.height - sheet.height % _OVERSAMPLE)
    return sheet.crop((0, 0, *even))
