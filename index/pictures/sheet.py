"""Contact sheets: rows of crops with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from index.pictures.style import INK, OTHER, PAPER, SAME, letters


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
            crop = ImageOps.pad(tile.image.convert("RGB"), (inside, inside), color=(235, 235, 235))
            sheet.paste(crop, (x + edge, y + edge))
            pen.multiline_text((x, y + tile_px + 3), tile.caption, fill=INK, font=font, spacing=2)
    return sheet
