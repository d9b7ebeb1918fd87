"""Pictures of a run: tracks over their scene, and crops beside their nearest neighbours.

Pillow and numpy only, so that a server or a laptop without a plotting stack can draw them.
Everything is drawn at twice the size and reduced, because Pillow's lines are not smooth.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

Colour = tuple[int, int, int]

# Told apart on grey, longest track first.
EIGHT: tuple[Colour, ...] = (
    (214, 39, 40),  # red
    (31, 98, 196),  # blue
    (44, 150, 60),  # green
    (245, 130, 32),  # orange
    (130, 45, 170),  # purple
    (0, 178, 200),  # cyan
    (232, 50, 190),  # magenta
    (122, 78, 30),  # brown
)
GREY: Colour = (130, 130, 130)
INK: Colour = (30, 30, 30)
PAPER: Colour = (255, 255, 255)
SAME: Colour = (44, 150, 60)
OTHER: Colour = (214, 39, 40)

FEW_FRAMES = 12  # up to here every box is drawn, and a track of two is worth a colour
SHORT = 5  # shorter tracks of longer clips are thin and grey
LEGEND_LINES = 28
_OVERSAMPLE = 2


@dataclass(frozen=True)
class Tile:
    """One crop on a sheet; ``same`` colours its border (None: the query itself)."""

    image: Image.Image
    caption: str
    same: bool | None = None


def colours(count: int) -> list[Colour]:
    """``count`` colours: eight clearly distinct ones, then hues a golden ratio apart."""
    made = list(EIGHT[:count])
    for number in range(len(made), count):
        red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.65, 0.75)
        made.append((round(red * 255), round(green * 255), round(blue * 255)))
    return made


def open_upright(path: Path) -> Image.Image:
    """Read an image as RGB after EXIF rotation, the frame that boxes are given in."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def median_image(paths: Sequence[Path], *, most: int = 25) -> Image.Image:
    """Pixelwise median of at most ``most`` evenly spread images of one size.

    What moves disappears; what stays is the scene to draw tracks over.
    """
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int))
    stack = np.stack([np.asarray(open_upright(paths[place])) for place in chosen])
    return Image.fromarray(np.median(stack, axis=0).astype(np.uint8))


def crops(
    regions: Iterable[tuple[Path, Sequence[float | None]]], *, side_px: int
) -> list[Image.Image]:
    """Regions as thumbnails within ``side_px`` squared; each image is opened once in a row.

    Args:
        regions: path and box (x1, y1, x2, y2 in pixels; None in it: the whole image).
        side_px: longest side; smaller crops are enlarged to it.
    """
    made = []
    last: tuple[Path, Image.Image] | None = None
    for path, box in regions:
        if last is None or last[0] != path:
            last = (path, open_upright(path))
        image = last[1]
        known = [value for value in box if value is not None]
        if len(known) == 4:
            x1, y1 = (max(0, int(value)) for value in known[:2])
            x2 = min(image.width, max(x1 + 1, int(np.ceil(known[2]))))
            y2 = min(image.height, max(y1 + 1, int(np.ceil(known[3]))))
            image = image.crop((x1, y1, x2, y2))
        made.append(ImageOps.contain(image, (side_px, side_px), Image.Resampling.BICUBIC))
    return made


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


def neighbour_sheet(
    rows: Sequence[Sequence[Tile]], *, title: str = "", tile_px: int = 150
) -> Image.Image:
    """A contact sheet: each row is a query and then its neighbours, captions below.

    Borders are green where ``Tile.same`` is true, red where false, dark for the query.
    """
    gap, edge, font = tile_px // 10, max(3, tile_px // 30), _font(max(11, tile_px // 11))
    lines = max((tile.caption.count("\n") + 1 for row in rows for tile in row), default=1)
    below = round(lines * font.size * 1.3) + gap // 2
    columns = max((len(row) for row in rows), default=0)
    top = gap + (round(2 * font.size) if title else 0)
    wide, high = tile_px + gap, tile_px + below + gap
    sheet = Image.new("RGB", (columns * wide + 2 * gap, top + len(rows) * high), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((gap, gap // 2), title, fill=INK, font=font)
    for down, row in enumerate(rows):
        for across, tile in enumerate(row):
            x = gap + across * wide + (gap if across else 0)  # the query stands a little apart
            y = top + down * high
            frame = {None: INK, True: SAME, False: OTHER}[tile.same]
            pen.rectangle((x, y, x + tile_px - 1, y + tile_px - 1), fill=frame)
            inside = tile_px - 2 * edge
            crop = ImageOps.pad(tile.image.convert("RGB"), (inside, inside), color=(235, 235, 235))
            sheet.paste(crop, (x + edge, y + edge))
            pen.multiline_text((x, y + tile_px + 3), tile.caption, fill=INK, font=font, spacing=2)
    return sheet


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
            _disc(pen, before[-1] + share * (after[0] - before[-1]), width / 2, tint)


def _ends(
    pen: ImageDraw.ImageDraw, centres: npt.NDArray[np.float64], tint: Colour, radius: float
) -> None:
    _disc(pen, centres[0], radius, PAPER, tint)
    _disc(pen, centres[-1], radius, tint, PAPER)


def _disc(
    pen: ImageDraw.ImageDraw,
    centre: npt.NDArray[np.float64],
    radius: float,
    fill: Colour,
    outline: Colour | None = None,
) -> None:
    x, y = centre.tolist()
    around = (x - radius, y - radius, x + radius, y + radius)
    pen.ellipse(around, fill=fill, outline=outline, width=max(1, round(radius / 2.5)))


def _boxes(
    pen: ImageDraw.ImageDraw,
    boxes: npt.NDArray[np.float64],
    frames: npt.NDArray[np.int64],
    last: int,
    tint: Colour,
    unit: int,
) -> None:
    font = _font(7 * unit)
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
    font = _font(9 * unit)
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


def _font(size_px: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont)  # every Pillow wheel has FreeType
    return font
