"""Contact sheets: rows of crops with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

Colour = tuple[int, int, int]

INK: Colour = (30, 30, 30)
BLANK: Colour = (235, 235, 235)
GREEN: Colour = (44, 150, 60)
RED: Colour = (214, 39, 40)


@dataclass(frozen=True)
class Tile:
    """One crop on a sheet."""

    image: Image.Image | None  # None where it could not be read
    caption: str  # lines below it
    border: Colour = INK  # colour around it


def contact_sheet(
    rows: Sequence[Sequence[Tile]], *, title: str = "", tile_px: int = 150
) -> Image.Image:
    """Draw rows of square tiles, each with its caption below; long lines are cut.

    Args:
        rows: the tiles of each row.
        title: line at the top.
        tile_px: side of a tile in pixels.
    """
    gap, font = tile_px // 10, ImageFont.load_default(max(11, tile_px // 12))
    assert isinstance(font, ImageFont.FreeTypeFont)  # every Pillow wheel has FreeType
    lines = max((tile.caption.count("\n") + 1 for row in rows for tile in row), default=1)
    top = gap + round(2 * font.size) * bool(title)
    width, height = tile_px + gap, tile_px + gap + round(lines * font.size * 1.4)
    columns = max((len(row) for row in rows), default=1)
    sheet = Image.new("RGB", (columns * width + gap, top + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, gap // 2), title, fill=INK, font=font)
    characters = round(tile_px / font.getlength("0"))
    for row_number, row in enumerate(rows):
        for column, tile in enumerate(row):
            x, y = gap + column * width, top + row_number * height
            crop = tile.image or Image.new("RGB", (1, 1), BLANK)
            crop = ImageOps.pad(crop.convert("RGB"), (tile_px - 8, tile_px - 8), color=BLANK)
            sheet.paste(ImageOps.expand(crop, 4, tile.border), (x, y))
            text = "\n".join(line[:characters] for line in tile.caption.split("\n"))
            draw.multiline_text((x, y + tile_px + 3), text, fill=INK, font=font, spacing=2)
    return sheet
