"""Pictures of a head: its curves, its confusion, and the images it was validated on."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipelines.images import ImageError, cut
from pipelines.probe.report import Measures, ProbeRecord, extra
from pipelines.records import write_atomic
from pipelines.sampling import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN, VALIDATION, GREY = "#1f62c4", "#d6602a", "#828282"
RIGHT, WRONG = (44, 150, 60), (214, 39, 40)
INK, PAPER, NOTHING = (30, 30, 30), (255, 255, 255), (200, 200, 200)
COLUMNS, MOST_TILES, TILE = 8, 48, 168  # pixels a side of a tile
_NUMBERED = 30  # up to so many classes every count is written, beyond only those above zero
_NAMED = 60  # beyond, names and counts are too small to read, and only colours are drawn


class Judged(NamedTuple):
    """A row that was validated on: where its picture is, and what it was taken for."""

    image: str
    box: tuple[float | None, ...]
    truth: str
    answer: str
    score: float

    @property
    def right(self) -> bool:
        return self.truth == self.answer


def _save(figure: Figure, file: Path) -> None:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120)
    write_atomic(file, sink.getvalue())


def draw_curves(record: ProbeRecord, file: Path) -> None:
    """Loss and accuracy by epoch, the best epoch marked, beside what chance comes to."""
    figure = extra("matplotlib.figure").Figure(figsize=(10, 4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    curves = record.curves
    epochs = np.arange(1, record.epochs + 1)
    marker = "o" if record.epochs == 1 else None
    for axes, train, validation in (
        (losses, curves.train_loss, curves.validation_loss),
        (accuracies, curves.train_accuracy, curves.validation_accuracy),
    ):
        axes.plot(epochs, train, color=TRAIN, marker=marker, label="train")
        axes.plot(epochs, validation, color=VALIDATION, marker=marker, label="validation")
        axes.axvline(record.best_epoch, color=GREY, linestyle=":", label="best epoch")
        best = validation[record.best_epoch - 1]
        axes.plot([record.best_epoch], [best], "o", color=VALIDATION, markeredgecolor="white")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(extra("matplotlib.ticker").MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    losses.set_ylim(bottom=0)
    losses.set_title("loss")
    losses.legend(frameon=False)
    lines = [("majority class", record.baselines["majority"], (0, (1, 1)))]
    if record.random_backbone is not None:
        lines.append(("random backbone", record.random_backbone.scores, (0, (5, 2))))
    for name, scores, dashes in lines:
        level = scores["validation"].accuracy
        accuracies.axhline(level, color=GREY, linestyle=dashes, label=f"{name} {level:.3f}")
    accuracies.set_ylim(0, 1.02)
    accuracies.set_title(
        f"accuracy: {record.measures['validation'].accuracy:.3f} at epoch {record.best_epoch}"
    )
    accuracies.legend(loc="lower right", framealpha=1, edgecolor="white")
    _save(figure, file)


def draw_confusion(measures: Measures, file: Path, *, title: str) -> None:
    """Counts, coloured by their share of the row: of a class, what it was taken for."""
    counts = np.array(measures.confusion)
    classes = list(measures.classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    many = len(classes)
    cell = 0.62 if many <= 8 else 0.5 if many <= 20 else 0.36
    letters = min(28, max(map(len, classes))) * 0.075 if many <= _NAMED else 0
    side = max(2.6, cell * min(many, _NAMED))
    figure = extra("matplotlib.figure").Figure(
        figsize=(side + letters + 1.6, side + letters * 0.9 + 1.2), layout="constrained"
    )
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 9 if many <= 20 else 7
    if many <= _NAMED:
        names = [name if len(name) <= 28 else name[:27] + "…" for name in classes]
        upright = 0 if many <= 4 and letters < 1 else 90
        axes.set_xticks(range(many), names, rotation=upright, parse_math=False)
        axes.set_yticks(range(many), names, parse_math=False)
        _write_counts(axes, counts, shares, small)
    axes.tick_params(labelsize=small, length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("answered")
    axes.set_ylabel("labelled")
    axes.set_title(title, fontsize=10, wrap=True)
    bar = figure.colorbar(drawn, ax=axes, shrink=min(0.8, 6 / side), aspect=30)
    bar.set_label("share of the label's rows", fontsize=small)
    bar.outline.set_visible(False)
    _save(figure, file)


def _write_counts(
    axes: Any, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], size: int
) -> None:
    many = len(counts)
    for row, column in np.argwhere((counts > 0) | (many <= _NUMBERED)).tolist():
        share, count = shares[row, column], counts[row, column]
        text = f"{count}\n{share:.0%}" if many <= 8 else str(count)
        ink = "white" if share > 0.55 else "black" if count else GREY
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)


def draw_validation(rows: Sequence[Judged], root: Path, file: Path, *, title: str) -> None:
    """Images with answer and label: the wrong ones first, the surest of them in front.

    An image that cannot be read becomes a grey tile that says why.
    """
    shown = sorted(rows, key=lambda row: (row.right, -row.score if not row.right else 0))
    wrong = sum(not row.right for row in rows)
    if len(shown) > MOST_TILES:  # of the right ones, some from everywhere
        few = max(0, MOST_TILES - wrong)
        shown = [*shown[: min(wrong, MOST_TILES)], *spread(shown[wrong:], few)]
    pictures = _pictures(shown, root)
    font, heading = ImageFont.load_default(13), ImageFont.load_default(17)
    columns = min(COLUMNS, len(shown))
    width, height = TILE + 16, TILE + 54
    sheet = Image.new(
        "RGB",
        (max(columns * width, 560) + 16, math.ceil(len(shown) / columns) * height + 52),
        PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    left_out = f", {len(shown)} shown" if len(shown) < len(rows) else ""
    pen.text((16, 14), f"{title}: {wrong} of {len(rows)} wrong{left_out}", INK, heading)
    for number, (row, picture) in enumerate(zip(shown, pictures, strict=True)):
        x, y = 16 + number % columns * width, 48 + number // columns * height
        tint = RIGHT if row.right else WRONG
        pen.rectangle((x - 4, y - 4, x + TILE + 3, y + TILE + 3), fill=tint)
        sheet.paste(picture, (x, y))
        pen.text((x - 2, y + TILE + 7), _fitted(f"{row.answer} {row.score:.2f}", font), tint, font)
        told = "right" if row.right else f"is {row.truth}"
        pen.text((x - 2, y + TILE + 24), _fitted(told, font), INK, font)
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    write_atomic(file, sink.getvalue())


def _pictures(rows: Sequence[Judged], root: Path) -> list[Image.Image]:
    from pipelines.video.frames import ImageReader

    found: dict[int, Image.Image] = {}
    with closing(ImageReader(root)) as reader:
        # By name, so that a video is opened once and read forward.
        for place in sorted(range(len(rows)), key=lambda place: rows[place].image):
            row = rows[place]
            try:
                pixels = cut(reader.read(row.image).pixels, row.box)
            except ImageError as error:
                found[place] = _missing(error)
                continue
            picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            tile = Image.new("RGB", (TILE, TILE), (240, 240, 240))
            fitted = ImageOps.contain(picture, (TILE, TILE), Image.Resampling.BICUBIC)
            tile.paste(fitted, ((TILE - fitted.width) // 2, (TILE - fitted.height) // 2))
            found[place] = tile
    return [found[place] for place in range(len(rows))]


def _missing(error: ImageError) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), NOTHING)
    font: Any = ImageFont.load_default(14)
    ImageDraw.Draw(tile).text((TILE / 2, TILE / 2), error.kind, INK, font, anchor="mm")
    return tile


def _fitted(text: str, font: Any) -> str:
    """``text``, cut where it is wider than a tile."""
    if font.getlength(text) <= TILE:
        return text
    while text and font.getlength(text + "…") > TILE:
        text = text[:-1]
    return text + "…"
