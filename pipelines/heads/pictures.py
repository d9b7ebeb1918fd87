"""Pictures of a head: its confusion matrix, and its validation images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from common.extras import optional
from common.json_models import write_atomic
from common.moved import ImageRoot
from common.sampling import spread
from pipelines.heads.report import Measures
from pipelines.images.errors import ImageError
from pipelines.images.pixels import crop
from pipelines.images.reader import ImageReader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG, NOTHING = "#2c963c", "#d62728", "#c8c8c8"
COLUMNS, MOST_TILES, TILE = 8, 48, 168  # pixels a side of a tile
_NUMBERED, _NAMED = 30, 60  # classes up to which counts and names can be read


class ValidatedRow(NamedTuple):
    """A validation row: its image, its label and its answer."""

    image: str
    box: tuple[float | None, ...]
    truth: str
    answer: str
    score: float

    @property
    def right(self) -> bool:
        """Whether the answer is the label."""
        return self.truth == self.answer


def _save(figure: Figure, file: Path) -> None:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=100)
    write_atomic(file, sink.getvalue())


def _shortened(text: str, most: int = 28) -> str:
    """``text``, cut to ``most`` letters, with no ``$`` that matplotlib would read as a formula."""
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def draw_confusion(measures: Measures, file: Path, *, title: str) -> None:
    """Draw a confusion matrix: counts, coloured by their share of the true class.

    Args:
        measures: with the matrix.
        file: PNG to write.
        title: above the matrix.
    """
    counts, many = np.array(measures.confusion), len(measures.classes)
    side = 3 + 0.45 * min(many, _NAMED)
    figure = optional("matplotlib.figure", "probe").Figure(
        figsize=(side + 1, side), layout="constrained"
    )
    axes = figure.subplots()
    drawn = optional("sklearn.metrics", "probe").ConfusionMatrixDisplay(
        counts / np.maximum(counts.sum(1, keepdims=True), 1),
        display_labels=[_shortened(name) for name in measures.classes],
    )
    drawn.plot(
        ax=axes,
        cmap="Blues",
        xticks_rotation="vertical",
        include_values=many <= _NUMBERED,
        im_kw={"vmin": 0, "vmax": 1},
    )
    if many <= _NUMBERED:
        for text, count in zip(drawn.text_.flat, counts.flat, strict=True):
            text.set_text(str(count))
    if many > _NAMED:
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel="answered", ylabel="labelled")
    axes.set_title(title, fontsize=10)
    _save(figure, file)


def draw_validation(
    rows: Sequence[ValidatedRow], root: Path | ImageRoot, file: Path, *, title: str
) -> None:
    """Draw images with answer and label: the wrong ones first, by descending score.

    An image that cannot be read becomes a grey tile with the error.

    Args:
        rows: of the validation.
        root: where the images are.
        file: PNG to write.
        title: above the images.
    """

    wrong = sorted((row for row in rows if not row.right), key=lambda row: -row.score)
    right = [row for row in rows if row.right]
    shown = [*wrong[:MOST_TILES], *spread(right, max(0, MOST_TILES - len(wrong)))]
    lines = -(-len(shown) // COLUMNS)
    size = (2 * COLUMNS, 2.4 * lines + 0.6)
    figure = optional("matplotlib.figure", "probe").Figure(figsize=size, layout="constrained")
    left_out = f", {len(shown)} shown" if len(shown) < len(rows) else ""
    figure.suptitle(f"{title}: {len(wrong)} of {len(rows)} wrong{left_out}")
    tiles = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes in tiles:
        axes.set_axis_off()
    with closing(ImageReader(root, damaged="keep")) as reader:
        # Sorted by name, so that a video is opened once and read forward.
        for row, axes in sorted(zip(shown, tiles, strict=False), key=lambda pair: pair[0].image):
            _draw_tile(axes, row, reader)
    _save(figure, file)


def _draw_tile(axes: Any, row: ValidatedRow, reader: ImageReader) -> None:
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[], facecolor=NOTHING, box_aspect=1)
    tint = RIGHT if row.right else WRONG
    axes.spines[:].set(color=tint, linewidth=4)
    axes.set_title(_shortened(f"{row.answer} {row.score:.2f}", 22), color=tint, fontsize=9)
    axes.set_xlabel("right" if row.right else _shortened(f"is {row.truth}", 22), fontsize=9)
    try:
        pixels = crop(reader.read(row.image).pixels, row.box)
    except ImageError as error:
        axes.text(0.5, 0.5, error.kind, ha="center", va="center")
        return
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    axes.imshow(ImageOps.pad(picture, (TILE, TILE), color=(240, 240, 240)))
