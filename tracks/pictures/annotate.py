"""Boxes, names and paths of tracks on an image, drawn by ``supervision``.

Images are arrays ``[H, W, 3]`` in the channel order of OpenCV, blue first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.extras import optional

Pixels = npt.NDArray[np.uint8]

# Dark enough for white names; the first ones, given to the longest tracks, differ most.
COLOURS = (
    *("#d62728", "#1f62c4", "#2c963c", "#e06c10", "#822daa", "#008ea0"),
    *("#e832be", "#7a4e1e", "#4b5a0a", "#7f0000", "#004d66", "#b08800"),
)
GREY = "#828282"


class Annotator:
    """Draws on images of one size; every method changes the image in place.

    Args:
        size: width and height in pixels.
        tail: number of past frames whose path ``tracks`` draws.
    """

    def __init__(self, size: tuple[int, int], *, tail: int = 1) -> None:
        self._sv = sv = optional("supervision", "tracks")
        self._size = size
        self._width = max(1, round(max(size) / 640))
        self._scale = max(0.35, sv.calculate_optimal_text_scale(size) * 0.8)
        self._palette = sv.ColorPalette.from_hex(list(COLOURS))
        style = {"color": self._palette, "color_lookup": sv.ColorLookup.TRACK}
        self._box = sv.BoxAnnotator(thickness=self._width, **style)
        self._lost = sv.BoxCornerAnnotator(
            thickness=self._width, corner_length=4 * self._width, **style
        )
        self._unnamed = sv.BoxAnnotator(
            sv.Color.from_hex(GREY), self._width, color_lookup=sv.ColorLookup.INDEX
        )
        self._tail = sv.TraceAnnotator(trace_length=tail, thickness=self._width, **style)
        self._label = sv.LabelAnnotator(
            text_scale=self._scale,
            text_thickness=self._width,
            text_padding=2 * self._width,
            smart_position=True,
            **style,
        )

    def tracks(
        self,
        image: Pixels,
        boxes: npt.NDArray[np.floating],
        tracks: npt.NDArray[np.int64],
        names: Sequence[str],
        lost: npt.NDArray[np.bool_],
    ) -> None:
        """Draw T tracks: box, name, and the path of the box in earlier images.

        Args:
            image: the next one, ``[H, W, 3]``.
            boxes: ``[T, 4]`` in pixels of the image.
            tracks: number of each track ``[T]``, which decides its colour.
            names: label of each box, T of them.
            lost: which are not in this image ``[T]``; of their boxes only corners are drawn.
        """
        detections = self._sv.Detections(boxes.reshape(-1, 4), tracker_id=tracks)
        self._tail.annotate(image, detections)
        self._box.annotate(image, detections[~lost])
        self._lost.annotate(image, detections[lost])
        self._label.annotate(image, detections, labels=list(names))

    def unnamed(self, image: Pixels, boxes: npt.NDArray[np.floating]) -> None:
        """Draw boxes ``[N, 4]`` that belong to no track, in grey."""
        self._unnamed.annotate(image, self._sv.Detections(boxes))

    def path(
        self, image: Pixels, points: npt.NDArray[np.floating], track: int | None, *, thin: bool
    ) -> None:
        """Draw a line.

        Args:
            image: to draw on.
            points: of the line ``[N, 2]``, as x, y in pixels.
            track: number that decides the colour; None: grey.
            thin: half the usual width.
        """
        colour = self._sv.Color.from_hex(GREY) if track is None else self._palette.by_idx(track)
        width, cv2 = self._width if thin else 2 * self._width, optional("cv2", "tracks")
        line = points.round().astype(np.int32)
        cv2.polylines(image, [line], False, colour.as_bgr(), width, cv2.LINE_AA)

    def caption(self, image: Pixels, text: str) -> None:
        """Write a line at the lower edge."""
        sv = self._sv
        position = sv.Point(self._size[0] / 2, self._size[1] - 16 * self._scale - 3 * self._width)
        sv.draw_text(
            image,
            text,
            position,
            text_color=sv.Color.WHITE,
            text_scale=self._scale,
            text_thickness=self._width,
            text_padding=2 * self._width,
            background_color=sv.Color.BLACK,
        )
