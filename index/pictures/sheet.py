"""Contact sheets: rows of crops with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from index.pictures.style import BLANK, INK, OTHER, PAPER, SAME, letters


@dataclass(frozen=True)
class Tile:
    """One crop on a sheet; ``same`` colours its border (None: the query itself)."""

    image: Image.Image
    caption: str
    same: bool | None = None


def neighbour_sheet(
    rows: Sequence[Sequence[Tile]], *, title: str = "", tile_px: int = 150
) -> Image.Image:
    """A contact sheet: each row is a query and then its neighbours, captions below.

    Borders are green where ``Tile.same`` is true, red where false, dark for the query.
    """
    gap, edge, font = tile_px // 10, max(3, tile_px // 30), letters(max(11, tile_px // 11))
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
            crop = ImageOps.pad(tile.image.convert("RGB"), (inside, inside), color=BLANK)
            sheet.paste(crop, (x + edge, y + edge))
            pen.multiline_text((x, y + tile_px + 3), tile.caption, fill=INK, font=font, spacing=2)
    return sheet


@dataclass(frozen=True)
class Link:
    """Two crops that were joined, and what is said of that; None for a crop that is gone."""

    before: Image.Image | None
    after: Image.Image | None
    text: str


def link_sheet(
    links: Sequence[Link], *, title: str = "", columns: int = 3, crop_px: int = 170
) -> Image.Image:
    """Links in rows of ``columns``: the crop before, the crop after, and the text beside them."""
    gap, type_ = crop_px // 12, letters(max(11, crop_px // 12))
    beside = round(0.95 * crop_px)
    wide = 2 * crop_px + 2 * gap + beside + 2 * gap
    high = crop_px + 2 * gap
    top = round(2.2 * type_.size) if title else 0
    rows = -(-len(links) // columns)
    across = min(columns, len(links))
    sheet = Image.new("RGB", (max(1, across * wide + gap), max(1, top + rows * high)), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((gap, gap // 2), title, fill=INK, font=type_)
    for number, link in enumerate(links):
        x, y = gap + number % columns * wide, top + number // columns * high
        for crop in (link.before, link.after):
            frame = (x, y, x + crop_px - 1, y + crop_px - 1)
            pen.rectangle(frame, fill=BLANK)
            if crop is None:
                pen.text((x + gap, y + gap), "image is gone", fill=INK, font=type_)
            else:
                at = (x + (crop_px - crop.width) // 2, y + (crop_px - crop.height) // 2)
                sheet.paste(crop.convert("RGB"), at)
            x += crop_px + gap
        pen.multiline_text((x, y), _within(link.text, type_, beside), fill=INK, font=type_)
    return sheet


def _within(text: str, type_: ImageFont.FreeTypeFont, width_px: float) -> str:
    """Lines cut so that each fits, with a mark where something was cut."""
    cut = []
    for line in text.split("\n"):
        shown = line
        while type_.getlength(shown) > width_px and len(shown) > 1:
            shown = f"{shown[:-2]}…"
        cut.append(shown)
    return "\n".join(cut)
