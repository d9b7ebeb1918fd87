"""Pictures for the notebooks: photographs out of scikit-image, and a moth trap drawn by code.

Nothing is downloaded. The photographs are in the public domain or CC0: see ``skimage.data``.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import Image as ShownImage
from PIL import Image, ImageDraw, ImageFilter, ImageOps

import onepass

KINDS = ("beetle", "hawk moth", "lacewing", "tiger moth")
SHEET = (960, 640)  # pixels of a picture of the trap
SCALE = 4  # insects are drawn so many times larger, for smooth edges


def new_folder(name: str) -> Path:
    """An empty folder ``out/NAME`` beside the notebook; what an earlier run left there is deleted."""
    folder = Path("out") / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def photos(folder: Path) -> Path:
    """Write five photographs in four views each, and one file that is broken.

    Returns:
        ``folder/photos``, with one folder for each photograph.
    """
    from skimage import data

    for name in ("astronaut", "brick", "chelsea", "coffee", "rocket"):
        photo = Image.fromarray(getattr(data, name)()).convert("RGB")
        width, height = photo.size
        closer = photo.crop((width // 8, height // 8, width * 7 // 8, height * 7 // 8))
        views = {
            "plain": photo,
            "closer": closer,
            "mirrored": ImageOps.mirror(closer).point(lambda value: int(value * 0.7)),
            "tilted": ImageOps.fit(photo.rotate(12, Image.Resampling.BICUBIC), (360, 270)),
        }
        for view, picture in views.items():
            file = folder / "photos" / name / f"{view}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.thumbnail((480, 480))
            picture.save(file, quality=90)
    (folder / "photos" / "rocket" / "broken.jpg").write_bytes(b"\xff\xd8\xff the card was full")
    return folder / "photos"


def trap_nights(folder: Path, *, nights: int = 4, insects: int = 24, seed: int = 0) -> Path:
    """Write pictures of a trap's sheet, one for each night, and the boxes of a detector.

    Returns:
        ``folder/boxes.csv``: image, sequence (the night), box, the kind of each insect, and a split
        into train, val and test.
    """
    rows = []
    for night in range(nights):
        random = np.random.default_rng(seed + night)
        sheet, name = _sheet(random), f"night{night}.jpg"
        cells = random.permutation(6 * 4)[:insects]
        for number, cell in enumerate(cells):
            kind = KINDS[number % len(KINDS)]
            centre = np.array([80 + 160 * (cell % 6), 80 + 160 * (cell // 6)]) + random.uniform(
                -28, 28, 2
            )
            box = _put(sheet, kind, random, centre, random.uniform(0, 360))
            split = ("train", "train", "val", "test")[(night + number // len(KINDS)) % 4]
            rows.append([name, f"night{night}", *box, kind, split])
        sheet.save(folder / name, quality=92)
    return _write(
        folder / "boxes.csv", ["image", "sequence", "x1", "y1", "x2", "y2", "kind", "split"], rows
    )


def trap_film(folder: Path, *, frames: int = 16, insects: int = 6) -> Path:
    """Write pictures of insects that walk over a trap's sheet, and the boxes of a detector.

    The last insect comes late, the first leaves early, and the detector misses a box now and then.

    Returns:
        ``folder/film.csv``: image, sequence, frame, timestamp, box, and which individual it is.
    """
    random = np.random.default_rng(5)
    empty = _sheet(random)
    places = np.array([[130 + 700 * random.random(), 70 + 100 * n] for n in range(insects)])
    headings = random.uniform(0, 360, insects)
    rows = []
    for frame in range(frames):
        picture, name = empty.copy(), f"frame{frame:02d}.jpg"
        for who in range(insects):
            headings[who] += random.normal(scale=18)
            if not (70 < places[who][0] < SHEET[0] - 70 and 70 < places[who][1] < SHEET[1] - 70):
                middle = np.array(SHEET) / 2 - places[who]  # turn back at the edge
                headings[who] = math.degrees(math.atan2(middle[0], -middle[1]))
            angle = math.radians(headings[who])
            places[who] += random.uniform(10, 42) * np.array([math.sin(angle), -math.cos(angle)])
            if (who == 0 and frame >= frames - 4) or (who == insects - 1 and frame < 4):
                continue
            own = np.random.default_rng(100 + who)  # the same shape and colours in every frame
            kind = KINDS[who % len(KINDS)]
            box = _put(picture, kind, own, places[who], headings[who])
            if random.random() > 0.06:
                moment = f"2026-06-21 23:{frame:02d}:00"
                rows.append([name, "trap", frame, moment, *box, f"{kind} {who}"])
        picture.save(folder / name, quality=92)
    return _write(
        folder / "film.csv",
        ["image", "sequence", "frame", "timestamp", "x1", "y1", "x2", "y2", "individual"],
        rows,
    )


def insect(kind: str, seed: int, *, side: int = 110) -> Image.Image:
    """One insect alone on a piece of cloth, as a picture to search with."""
    random = np.random.default_rng(seed)
    picture = _sheet(random).crop((300, 200, 300 + side, 200 + side))
    _put(picture, kind, random, np.array([side / 2, side / 2]), random.uniform(0, 360))
    return picture


def crop(run: onepass.Run, row: Mapping[str, Any], *, side: int = 110) -> Image.Image:
    """A square around the box of one detection; of a whole image, the square in its middle.

    Args:
        run: whose images are read.
        row: with ``image`` and ``x1 y1 x2 y2``; of a whole image these are missing or NaN.
        side: pixels.
    """
    picture = Image.open(run.image_path(row["image"])).convert("RGB")
    if row.get("x1") is not None and not math.isnan(row["x1"]):
        x1, y1, x2, y2 = (row[name] for name in ("x1", "y1", "x2", "y2"))
        half = max(x2 - x1, y2 - y1) / 2
        left = min(max(0, (x1 + x2) / 2 - half), picture.width - 2 * half)
        top = min(max(0, (y1 + y2) / 2 - half), picture.height - 2 * half)
        picture = picture.crop([round(v) for v in (left, top, left + 2 * half, top + 2 * half)])
    return ImageOps.fit(picture, (side, side))


def sheet_of(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 6
) -> ShownImage:
    """Pictures of one size in rows, each with some lines of text below it."""
    width, height = pictures[0].size
    height += 8 + 15 * max(caption.count("\n") + 1 for caption in captions)
    rows, columns = math.ceil(len(pictures) / columns), min(columns, len(pictures))
    canvas = Image.new("RGB", (columns * (width + 8), rows * height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = number % columns * (width + 8) + 4, number // columns * height + 4
        canvas.paste(picture, (x, y))
        middle = (x + width / 2, y + picture.height + 2)
        draw.multiline_text(
            middle, caption, fill="black", anchor="ma", font_size=12, spacing=2, align="center"
        )
    return small(canvas)


def small(picture: Image.Image, *, side: int = 960) -> ShownImage:
    """A picture as a JPEG of moderate size: a notebook with its outputs stays small."""
    shown = picture.convert("RGB")
    shown.thumbnail((side, side))
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=85)
    return ShownImage(data=stream.getvalue(), format="jpeg")


def _write(file: Path, header: list[str], rows: Iterable[Sequence[object]]) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def _sheet(random: np.random.Generator) -> Image.Image:
    """White cloth with a weave and folds, in the light of a lamp above it."""
    width, height = SHEET
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot((x - width * random.uniform(0.35, 0.65)) / width, (y + 60) / height)
    light = 238 - 52 * np.clip(distance, 0, 1.4) ** 1.5
    folds = sum(
        random.uniform(1, 3) * np.sin((x * math.cos(a) + y * math.sin(a)) / length + phase)
        for a, length, phase in zip(
            random.uniform(0, 3, 3),
            random.uniform(40, 110, 3),
            random.uniform(0, 6, 3),
            strict=True,
        )
    )
    weave = 1.6 * ((x % 3 == 0).astype(float) + (y % 3 == 0)) + random.normal(
        scale=1.3, size=x.shape
    )
    grey = light + folds - weave
    tinted = np.stack([grey * 0.985, grey * 0.985, grey * 1.01], axis=-1)
    return Image.fromarray(tinted.clip(0, 255).astype(np.uint8))


def _put(
    sheet: Image.Image,
    kind: str,
    random: np.random.Generator,
    centre: np.ndarray,
    degrees: float,
) -> list[int]:
    """Draw one insect with its shadow; degrees count clockwise, 0 is up.

    Returns:
        Its box: x1 y1 x2 y2.
    """
    drawn = _DRAW[kind](random).rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
    drawn = drawn.resize((drawn.width // SCALE, drawn.height // SCALE), Image.Resampling.LANCZOS)
    drawn = drawn.crop(drawn.getchannel("A").point(lambda alpha: 255 * (alpha > 60)).getbbox())
    x, y = round(centre[0] - drawn.width / 2), round(centre[1] - drawn.height / 2)
    shadow = ImageOps.expand(drawn.getchannel("A").point(lambda alpha: alpha * 0.45), 10)
    sheet.paste((70, 70, 90), (x - 6, y - 5), shadow.filter(ImageFilter.GaussianBlur(3)))
    sheet.paste(drawn, (x, y), drawn)
    return [
        max(0, x - 4),
        max(0, y - 4),
        min(sheet.width, x + drawn.width + 4),
        min(sheet.height, y + drawn.height + 4),
    ]


class _Brush:
    """A transparent square to draw on in units of about a pixel, with the origin in the middle."""

    def __init__(self, random: np.random.Generator, size: float) -> None:
        self.random = random
        self.unit = SCALE * size * random.uniform(0.88, 1.12)
        self.middle = 70 * SCALE
        self.picture = Image.new("RGBA", (2 * self.middle, 2 * self.middle))
        self.draw = ImageDraw.Draw(self.picture)

    def at(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(self.middle + x * self.unit, self.middle + y * self.unit) for x, y in points]

    def shade(self, colour: tuple[int, int, int], spread: float = 12, alpha: int = 255) -> Any:
        """The colour as this individual has it."""
        moved = np.array(colour) + self.random.normal(scale=spread) + self.random.normal(size=3) * 4
        return (*moved.clip(0, 255).astype(int).tolist(), alpha)

    def both(self, points: Sequence[tuple[float, float]], colour: Any) -> None:
        """A shape on the right, and its mirror image on the left."""
        for side in (1, -1):
            self.draw.polygon(self.at((side * x, y) for x, y in _rounded(points)), fill=colour)

    def oval(self, x: float, y: float, a: float, b: float, colour: Any) -> None:
        self.draw.ellipse([*self.at([(x - a, y - b)]), *self.at([(x + a, y + b)])], fill=colour)

    def lines(self, paths: Iterable[Sequence[tuple[float, float]]], colour: Any, w: float) -> None:
        for path in paths:
            for side in (1, -1):
                points = self.at((side * x, y) for x, y in path)
                self.draw.line(
                    points, fill=colour, width=max(1, round(w * self.unit)), joint="curve"
                )


def _rounded(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A closed shape with its corners cut three times: smooth."""
    shape = np.array(points, float)
    for _ in range(3):
        following = np.roll(shape, -1, axis=0)
        shape = np.stack([0.75 * shape + 0.25 * following, 0.25 * shape + 0.75 * following], 1)
        shape = shape.reshape(-1, 2)
    return [(float(x), float(y)) for x, y in shape]


LEGS = [[(4, -8), (13, -16), (17, -24)], [(5, 0), (17, 2), (23, -3)], [(4, 9), (14, 17), (18, 27)]]
FEELERS = [[(2, -19), (7, -28), (14, -33)]]


def _hawk_moth(random: np.random.Generator) -> Image.Image:
    brush = _Brush(random, 1.0)
    wing, dark = brush.shade((128, 98, 70)), brush.shade((74, 54, 40))
    pale = brush.shade((176, 148, 112))
    brush.lines(FEELERS, dark, 1.2)
    brush.both([(2, 2), (22, 8), (25, 22), (12, 24), (3, 14)], brush.shade((196, 128, 104)))
    brush.both([(2, -13), (14, -12), (46, 12), (43, 22), (24, 15), (3, 9)], wing)
    brush.both([(9, -8), (16, -8), (26, 14), (18, 12)], dark)
    brush.both([(27, 3), (32, 5), (37, 18), (31, 16)], pale)
    brush.oval(0, 7, 6, 21, brush.shade((112, 86, 66)))
    for ring in range(4):
        brush.oval(0, 9 + 4.6 * ring, 4.6 - 0.7 * ring, 1, pale)
    brush.oval(0, -11, 7, 8, dark)
    brush.oval(0, -19, 4, 4, dark)
    return brush.picture


def _tiger_moth(random: np.random.Generator) -> Image.Image:
    brush = _Brush(random, 0.92)
    wing, spot = brush.shade((240, 232, 210), 6), brush.shade((48, 38, 36), 6)
    brush.lines(FEELERS, spot, 1.4)
    brush.both([(1, -14), (13, -12), (33, 22), (27, 30), (2, 18)], brush.shade((205, 198, 180), 6))
    brush.both([(1, -14), (12, -12), (30, 20), (24, 27), (2, 15)], wing)
    for _ in range(int(random.integers(9, 14))):
        y = random.uniform(-7, 20)
        x, radius = random.uniform(4, 8 + 0.7 * (y + 8)), random.uniform(1.3, 2.6)
        for side in (1, -1):
            brush.oval(side * x, y, radius, radius * 1.2, spot)
    brush.oval(0, 6, 4.5, 14, brush.shade((214, 164, 70)))
    brush.oval(0, -12, 6, 7, wing)
    brush.oval(0, -19, 3.5, 3.5, spot)
    return brush.picture


def _beetle(random: np.random.Generator) -> Image.Image:
    brush = _Brush(random, 0.8)
    shell, dark = brush.shade((64, 44, 32), 14), brush.shade((28, 22, 20), 4)
    brush.lines([*LEGS, *FEELERS], dark, 2.2)
    brush.oval(0, 9, 14, 22, dark)
    brush.oval(0, 9, 12.5, 20.5, shell)
    brush.both([(3, -6), (7, -4), (7, 14), (4, 20)], brush.shade((128, 100, 78), 10))  # gloss
    brush.draw.line(brush.at([(0, -11), (0, 30)]), fill=dark, width=round(1.2 * brush.unit))
    brush.oval(0, -13, 11, 8, dark)
    brush.oval(0, -22, 6, 5, dark)
    return brush.picture


def _lacewing(random: np.random.Generator) -> Image.Image:
    brush = _Brush(random, 1.05)
    green, vein = brush.shade((112, 164, 72)), brush.shade((120, 150, 110), 8)
    brush.lines(LEGS, brush.shade((130, 150, 90)), 0.9)
    brush.lines([[(1, -20), (6, -34), (16, -46)]], brush.shade((120, 130, 80)), 0.9)
    for tip in (((20, 34), (15, 42)), ((13, 36), (8, 42))):
        brush.both([(1, -9), (10, -6), *tip, (2, 14)], brush.shade((206, 222, 200), 4, alpha=170))
    brush.lines([[(2, -6), (8 + 3 * n, 14), (7 + 3 * n, 36)] for n in range(3)], vein, 0.6)
    brush.lines([[(4, 4 + 7 * n), (15, 9 + 7 * n)] for n in range(4)], vein, 0.5)
    brush.oval(0, 8, 2.8, 21, green)
    brush.oval(0, -11, 3.6, 6, green)
    brush.oval(0, -18, 3.4, 3, green)
    for side in (1, -1):
        brush.oval(side * 3, -19, 1.5, 1.5, (150, 110, 40, 255))
    return brush.picture


_DRAW = {
    "beetle": _beetle,
    "hawk moth": _hawk_moth,
    "lacewing": _lacewing,
    "tiger moth": _tiger_moth,
}
