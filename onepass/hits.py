"""What a search of an index returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.errors import SnapshotError
from index.search.snapshot import Hits as Rows
from index.search.snapshot import Snapshot
from index.storage.columns import PAYLOAD, to_json
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
        first_rank: rank of the first hit, above 1 after an offset.
        grouped: with ``group_by``, the group of each hit, ``[N, k]``.

    Where one query has fewer hits than another, the rest of its row has the id None and the score
    NaN; tables and dicts leave that out.
    """

    snapshot: Snapshot
    rows: Rows
    single: bool
    first_rank: int = 1
    grouped: npt.NDArray[np.object_] | None = None

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """In the unit of the metric: a similarity for ``cosine`` and ``ip``, else a distance."""
        return self.rows.scores[0] if self.single else self.rows.scores

    @cached_property
    def ids(self) -> npt.NDArray[np.object_]:
        """Detection ids, in the shape of ``scores``."""
        rows = self.rows.rows
        ids = np.full(rows.shape, None, object)
        ids[rows >= 0] = self.snapshot.columns(rows[rows >= 0], ["detection_id"])["detection_id"]
        return ids[0] if self.single else ids

    @property
    def groups(self) -> npt.NDArray[np.object_] | None:
        """With ``group_by``: the value that the hits of a group share, in the shape of ``scores``."""
        if self.grouped is None:
            return None
        return self.grouped[0] if self.single else self.grouped

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
            ``payload`` (a dict of your own columns), and with ``group_by`` the ``group``.
        """
        dicts = []
        for query in range(len(self.rows.rows)):
            hits = self.rows.of(query)
            kept = hits.rows[0] >= 0
            described = self.snapshot.describe(Rows(hits.rows[:, kept], hits.scores[:, kept]))
            for number, hit in enumerate(described):
                hit["rank"] += self.first_rank - 1
                if self.grouped is not None:
                    hit["group"] = to_json(self.grouped[query][number])
                dicts.append(hit if self.single else {"query": query, **hit})
        return dicts

    def to_pandas(self) -> pd.DataFrame:
        """One row per hit, with the columns of ``to_dicts``; ``x1 y1 x2 y2`` in place of the box.

        Your own columns come last, each under its name, or as ``payload.NAME`` where that is taken.
        """
        import pandas as pd  # late: half a second

        rows = self.rows.rows
        kept = rows >= 0
        query, place = np.nonzero(kept)
        columns: dict[str, Any] = {} if self.single else {"query": query}
        stored = stored_columns(self.snapshot, rows[kept])
        columns |= {
            "rank": place + self.first_rank,
            "detection_id": stored.pop("detection_id"),
            "score": self.rows.scores[kept],
        }
        if self.grouped is not None:
            columns["group"] = self.grouped[kept]
        for name, values in stored.items():
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
            kept = self.rows.rows[query] >= 0
            hits = Rows(self.rows.rows[query][kept][None], self.rows.scores[query][kept][None])
            labels = self.snapshot.columns(hits.rows[0], ["label"])["label"]
            sheet.append(
                [
                    Tile(self._crop(row), f"{rank}: {score:.3f}\n{(label or '').partition(',')[0]}")
                    for rank, (row, score, label) in enumerate(
                        zip(hits.rows[0].tolist(), hits.scores[0], labels, strict=True),
                        start=self.first_rank,
                    )
                ]
            )
        return contact_sheet(sheet)

    def _crop(self, row: int) -> Image.Image | None:
        # late: torch takes seconds
        from PIL import Image

        from pipelines.images.errors import ImageError
        from pipelines.images.pixels import crop
        from pipelines.images.reader import read_image

        box = tuple(values[0] for values in self.snapshot.columns(np.array([row]), BOX).values())
        try:
            pixels = read_image(Path(), str(self.snapshot.image_path(row))).pixels
            return Image.fromarray(crop(pixels, box).permute(1, 2, 0).contiguous().numpy())
        except (ImageError, SnapshotError):  # it cannot be read, or the vector has none
            return None


def stored_columns(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Columns of some rows as a table has them: own columns last, ``payload.NAME`` where taken.

    Args:
        snapshot: the index.
        rows: [R] row numbers.
    """
    import pandas as pd  # late: half a second

    stored = snapshot.columns(rows)
    columns: dict[str, Any] = {
        "detection_id": stored["detection_id"],
        "label": stored["label"],
        "label_index": stored["label_index"],
        "label_score": stored["score"],
        "image": stored["image"],
        **{side: np.array(stored[side], np.float32) for side in BOX},  # NaN: the whole image
        "sequence": stored["sequence"],
        "frame": stored["frame"],
        "timestamp": pd.to_datetime(pd.Series(stored["timestamp"], dtype="datetime64[us]")),
    }
    for name in snapshot.own_columns:
        values = pa.array(stored[name], snapshot.schema.field(name).type).to_pandas()
        columns[name if name not in columns else f"{PAYLOAD}.{name}"] = values
    return columns
