"""What a search of an index returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.search.snapshot import Hits as Rows
from index.search.snapshot import Snapshot
from index.storage.columns import PAYLOAD
from pipelines.detections import BOX

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

_DRAWN = 20  # queries, so that a picture stays one that can be looked at


@dataclass(frozen=True, repr=False)
class Hits:
    """The nearest detections of each query, nearest first.

    Attributes:
        snapshot: the version of the index that was searched.
        rows: their row numbers and scores, ``[N, k]``.
        single: whether one query was given: ids and scores are ``[k]`` then, else ``[N, k]``.
    """

    snapshot: Snapshot
    rows: Rows
    single: bool

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """In the unit of the metric: a similarity for ``cosine`` and ``ip``, else a distance."""
        return self.rows.scores[0] if self.single else self.rows.scores

    @cached_property
    def ids(self) -> npt.NDArray[np.object_]:
        """Detection ids, in the shape of ``scores``."""
        names = self.snapshot.columns(self.rows.rows.ravel(), ["detection_id"])
        return np.array(names["detection_id"], object).reshape(self.scores.shape)

    def __len__(self) -> int:
        """Number of hits of one query."""
        return int(self.rows.rows.shape[1])

    def __repr__(self) -> str:
        queries = "" if self.single else f" for each of {len(self.rows.rows)} queries"
        nearest = f"; {self.ids[0]} at {self.scores[0]:.3f}" if self.single and len(self) else ""
        return f"Hits({len(self)} nearest{queries}{nearest})"

    def _repr_html_(self) -> str:
        return str(self.to_pandas().to_html(max_rows=20))

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict per hit, of values that can be written as JSON.

        Returns:
            With ``query`` (its number, where there are several), ``rank`` (from 1),
            ``detection_id``, ``score`` (of the metric), ``label``, ``label_index``,
            ``label_score``, ``image``, ``box`` (pixels), ``sequence``, ``frame``, ``timestamp``,
            ``payload`` (a dict of your own columns).
        """
        described = self.snapshot.describe
        if self.single:
            return described(self.rows)
        return [
            {"query": query, **hit}
            for query in range(len(self.rows.rows))
            for hit in described(self.rows.of(query))
        ]

    def to_pandas(self) -> pd.DataFrame:
        """One row per hit, with the columns of ``to_dicts``; ``x1 y1 x2 y2`` in place of the box.

        Your own columns come last, each under its name, or as ``payload.NAME`` where that is taken.
        """
        import pandas as pd  # late: half a second

        queries, k = self.rows.rows.shape
        stored = self.snapshot.columns(self.rows.rows.ravel())
        columns: dict[str, Any] = {} if self.single else {"query": np.repeat(np.arange(queries), k)}
        columns |= {
            "rank": np.tile(np.arange(1, k + 1), queries),
            "detection_id": stored["detection_id"],
            "score": self.rows.scores.ravel(),
            "label": stored["label"],
            "label_index": stored["label_index"],
            "label_score": stored["score"],
            "image": stored["image"],
            **{side: np.array(stored[side], np.float32) for side in BOX},  # NaN: the whole image
            "sequence": stored["sequence"],
            "frame": stored["frame"],
            "timestamp": pd.to_datetime(pd.Series(stored["timestamp"], dtype="datetime64[us]")),
        }
        schema = self.snapshot.schema
        for name in self.snapshot.own_columns:
            values = pa.array(stored[name], schema.field(name).type).to_pandas()
            columns[name if name not in columns else f"{PAYLOAD}.{name}"] = values
        return pd.DataFrame(columns)

    def draw(self) -> Image.Image:
        """The crops of the hits as one picture, with rank, score and class below each.

        Returns:
            A row of crops for each query, of the first 20 queries. A notebook shows it. The crop of
            an image that cannot be read is grey.
        """
        from tracks.pictures.sheet import Tile, contact_sheet  # late: Pillow takes a while

        sheet = []
        for query in range(min(len(self.rows.rows), _DRAWN)):
            hits = self.rows.of(query)
            labels = self.snapshot.columns(hits.rows[0], ["label"])["label"]
            sheet.append(
                [
                    Tile(self._crop(row), f"{rank}: {score:.3f}\n{(label or '').partition(',')[0]}")
                    for rank, (row, score, label) in enumerate(
                        zip(hits.rows[0].tolist(), hits.scores[0], labels, strict=True), start=1
                    )
                ]
            )
        return contact_sheet(sheet)

    def _crop(self, row: int) -> Image.Image | None:
        # late: torch takes seconds
        from PIL import Image

        from pipelines.images.pixels import ImageError, crop
        from pipelines.images.reader import read_image

        box = tuple(values[0] for values in self.snapshot.columns(np.array([row]), BOX).values())
        try:
            pixels = read_image(Path(), str(self.snapshot.image_path(row))).pixels
            return Image.fromarray(crop(pixels, box).permute(1, 2, 0).contiguous().numpy())
        except ImageError:
            return None
