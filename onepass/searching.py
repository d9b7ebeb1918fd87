"""What an open index answers: searches, its detections, their vectors, the values of a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from index.config import Direction
from index.search.columns import count_values, sort_rows
from index.search.examples import Examples
from index.search.groups import Grouping, group_by_column, search_groups
from index.search.selection import select
from index.search.snapshot import Snapshot
from onepass.arguments import PATH, read_path, warn
from onepass.hits import Hits, stored_columns
from onepass.ids import describe_unknown
from onepass.query_arguments import (
    of_column,
    read_count,
    read_examples,
    read_filter,
    read_threshold,
    read_vectors,
)

if TYPE_CHECKING:
    import pandas as pd

Image = str | Path | bytes
Rows = npt.NDArray[np.int64]

_NO_ROWS = np.empty(0, np.int64)


class SearchOptions(TypedDict, total=False):
    """The keywords of ``Index.search`` that all searches take."""

    where: str | None
    ids: Iterable[str] | None
    exact: bool
    score_threshold: float | None
    offset: int
    group_by: str | None
    group_size: int


class IndexSearch:
    """The searching half of ``Index``."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._groupings: dict[str, Grouping] = {}

    def search(
        self,
        vectors: npt.ArrayLike,
        k: int = 10,
        *,
        where: str | None = None,
        ids: Iterable[str] | None = None,
        exact: bool = False,
        score_threshold: float | None = None,
        offset: int = 0,
        group_by: str | None = None,
        group_size: int = 1,
    ) -> Hits:
        """Find the k nearest detections of each vector.

        Args:
            vectors: ``[N, D]``, or ``[D]`` for one query: raw embeddings of the index's model.
            k: neighbours of each; fewer where fewer rows match. With ``group_by``: groups.
            where: SQL condition on the columns of a row, as ``"label = 'moth' AND score > 0.5"``.
            ids: only these detections; an empty list: none. Unknown ids are a warning.
            exact: compare with every vector instead of using the approximate index.
            score_threshold: only hits at least as near: the lowest score for ``cosine`` and ``ip``,
                the largest distance for ``l1`` and ``l2``.
            offset: nearest hits to leave out, to turn pages. With ``group_by``: groups.
            group_by: the nearest groups of rows with one value of this column, as ``"sequence"`` or
                ``"image"``, or with ``"track"`` of one track. A row without a value is a group of
                its own.
            group_size: most hits of each group.

        Returns:
            Ids and scores ``[N, k]``, or ``[k]`` for one query, nearest first; hits of one group
            together. Where queries have different numbers of hits, None and NaN fill up.

        Raises:
            InputError: ``vectors`` do not fit the index, or an option is wrong.

        Example:
            >>> run, index = onepass.open_run("runs/first"), onepass.open_index("photos.index")
            >>> index.search(run.embeddings(), k=2).ids.shape
            (12, 2)
            >>> index.search(run.embeddings()[0], k=2, group_by="sequence").groups.tolist()
            ['night0', 'night1']
        """
        options = SearchOptions(
            where=where,
            ids=ids,
            exact=exact,
            score_threshold=score_threshold,
            offset=offset,
            group_by=group_by,
            group_size=group_size,
        )
        queries = read_vectors("vectors", vectors)
        return self._answer(np.atleast_2d(queries), k, options, single=queries.ndim == 1)

    def search_images(
        self, images: Image | Sequence[Image], k: int = 10, **options: Unpack[SearchOptions]
    ) -> Hits:
        """Find the k nearest detections of each image, embedded now with the index's model.

        Args:
            images: a file or its bytes, or several of them.
            k: neighbours of each; fewer where fewer rows match.
            options: the keywords of ``search``, as ``where``.

        Returns:
            Ids and scores ``[N, k]``, or ``[k]`` for one image, nearest first.

        Raises:
            InputError: an image cannot be read, or as for ``search``.
            ModelError: the model cannot be loaded here.
        """
        single = isinstance(images, PATH | bytes)
        several = [images] if isinstance(images, PATH | bytes) else images
        if not isinstance(several, Sequence) or not several:
            raise InputError(f"`images={images!r}`: give a file, its bytes, or a list of them")
        vectors = np.stack([self._embed(image) for image in several])
        return self.search(vectors[0] if single else vectors, k, **options)

    def neighbors(self, detection_id: str, k: int = 10, **options: Unpack[SearchOptions]) -> Hits:
        """Find the k detections nearest to one of the index, which is not among them.

        Args:
            detection_id: the query.
            k: neighbours; fewer where fewer rows match.
            options: the keywords of ``search``, as ``where``.

        Returns:
            Ids and scores ``[k]``, nearest first.

        Raises:
            InputError: there is no such detection, or as for ``search``.
        """
        if not isinstance(detection_id, str):
            raise InputError(f"`detection_id={detection_id!r}`: give a text")
        read_filter(options.get("where"), options.get("ids"))  # before the index is asked
        row = np.array([self.snapshot.row_of(detection_id)])
        return self._answer(self.snapshot.vectors(row), k, options, single=True, excluded=row)

    def recommend(
        self,
        positive: npt.ArrayLike | Sequence[str | npt.ArrayLike],
        negative: npt.ArrayLike | Sequence[str | npt.ArrayLike] = (),
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> Hits:
        """Find the k detections most like some examples and unlike others.

        The query is ``mean(positive) + (mean(positive) - mean(negative))`` of the normalised
        examples. No example is among the hits.

        Args:
            positive: one or several ids or raw vectors ``[D]``, mixed as you like.
            negative: the same, of what to avoid; may be empty.
            k: neighbours; fewer where fewer rows match.
            options: the keywords of ``search``, as ``where``.

        Returns:
            Ids and scores ``[k]``, nearest first.

        Raises:
            InputError: there is no positive example or no such detection, the examples cancel out,
                or as for ``search``.

        Example:
            >>> index = onepass.open_index("photos.index")
            >>> first, second, *others = index.detections()["detection_id"]
            >>> hits = index.recommend([first, second], negative=[others[-1]], k=3)
            >>> {first, second, others[-1]} & set(hits.ids)
            set()
        """
        examples = Examples(
            read_examples("positive", positive), read_examples("negative", negative)
        )
        rows = np.array([self.snapshot.row_of(name) for name in examples.ids], np.int64)
        query = examples.vector(self.snapshot.vectors(rows), self.snapshot.manifest.metric)
        return self._answer(query[None], k, options, single=True, excluded=rows)

    def vectors(self, ids: str | Iterable[str]) -> npt.NDArray[np.float32]:
        """Vectors of detections as the index holds them: normalised for its metric.

        Args:
            ids: one id, or several.

        Returns:
            ``[N, D]`` in the order of ``ids``, or ``[D]`` for one.

        Raises:
            InputError: there is no such detection.
        """
        names = [ids] if isinstance(ids, str) else list(ids)
        rows = self.snapshot.rows_of(names)
        if (rows < 0).any():
            self.snapshot.row_of(names[int(np.argmax(rows < 0))])  # says what is missing
        vectors = self.snapshot.vectors(rows)
        return vectors[0] if isinstance(ids, str) else vectors

    def detections(
        self,
        where: str | None = None,
        *,
        ids: Iterable[str] | None = None,
        order_by: str | None = None,
        direction: Direction = "asc",
        limit: int | None = None,
        offset: int = 0,
    ) -> pd.DataFrame:
        """The rows of the index, filtered and in the order of any column.

        Args:
            where: SQL condition on the columns of a row.
            ids: only these detections; an empty list: none. Unknown ids are a warning.
            order_by: a column; rows without a value come last. None: the order of the index.
            direction: ``asc`` or ``desc``.
            limit: most rows; None: all.
            offset: rows to leave out first.

        Returns:
            One row per detection, with the columns of ``Hits.to_pandas`` but rank and score.

        Raises:
            InputError: an argument is wrong.

        Example:
            >>> index = onepass.open_index("photos.index")
            >>> index.detections("sequence = 'night0'", order_by="image", limit=2)["image"].tolist()
            ['night0/0.jpg', 'night0/1.jpg']
        """
        import pandas as pd  # late: half a second

        filter = read_filter(where, ids)
        if order_by is None:
            rows = self.snapshot.matching(filter)
        else:
            if direction not in ("asc", "desc"):
                raise InputError(f"`direction={direction!r}`: give asc or desc")
            order = of_column("order_by", order_by, sort_rows, self.snapshot, order_by, direction)
            rows = order[self.snapshot.mask(filter)[order]]
        first = read_count("offset", offset, least=0)
        last = None if limit is None else first + read_count("limit", limit, least=0)
        warn(describe_unknown(self.snapshot, filter.ids))
        return pd.DataFrame(stored_columns(self.snapshot, rows[first:last]))

    def facets(
        self, column: str, where: str | None = None, *, limit: int | None = None
    ) -> dict[Any, int]:
        """The values of a column and the number of rows with each, most frequent first.

        Args:
            column: any column of the rows, as ``"label"``, or one of your own.
            where: SQL condition on the columns of a row: count these only.
            limit: most values; None: all.

        Returns:
            Value to number of rows; equally frequent values ascend. Rows without one do not count.

        Raises:
            InputError: there is no such column, or ``where`` is not a condition.

        Example:
            >>> onepass.open_index("photos.index").facets("sequence")
            {'night0': 6, 'night1': 6}
        """
        most = self.snapshot.rows.num_rows if limit is None else read_count("limit", limit, least=0)
        filter = read_filter(where, None)
        return dict(
            of_column("column", column, count_values, self.snapshot, column, filter, most)[1]
        )

    def _answer(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        options: SearchOptions,
        *,
        single: bool,
        excluded: Rows = _NO_ROWS,
    ) -> Hits:
        """The hits of Q queries; ``excluded``: rows that are not hits."""
        k, size = read_count("k", k), read_count("group_size", options.get("group_size", 1))
        offset = read_count("offset", options.get("offset", 0), least=0)
        threshold = read_threshold(options.get("score_threshold"))
        filter = read_filter(options.get("where"), options.get("ids"))
        exact, group_by = options.get("exact", False), options.get("group_by")
        if size > 1 and group_by is None:
            raise InputError(f"`group_size={size}` is of groups: give `group_by` as well")
        if group_by is not None:
            selection = search_groups(
                self.snapshot,
                queries,
                self._grouping(group_by),
                k=k,
                group_size=size,
                offset=offset,
                score_threshold=threshold,
                excluded=[excluded] * len(queries),
                filter=filter,
                exact=exact,
            )
        else:
            depth = offset + k + len(excluded)
            rows = self.snapshot.search(queries, depth, filter=filter, exact=exact)
            selection = select(
                rows,
                self.snapshot.manifest.metric,
                ends=[offset + k] * len(queries),
                offsets=[offset] * len(queries),
                thresholds=[threshold] * len(queries),
                excluded=[(query, excluded) for query in range(len(queries)) if len(excluded)],
            )
        warn(describe_unknown(self.snapshot, filter.ids))
        hits, groups = selection.padded()
        first_rank = 1 if group_by is not None else offset + 1
        return Hits(self.snapshot, hits, single, first_rank=first_rank, grouped=groups)

    def _grouping(self, name: str) -> Grouping:
        if name not in self._groupings:
            self._groupings[name] = self._read_grouping(name)
        return self._groupings[name]

    def _read_grouping(self, name: str) -> Grouping:
        from api.service.tracks import TRACK, TrackTable, read_steps  # late: the API's half

        if name != TRACK or TRACK in self.snapshot.own_columns:
            grouping: Grouping = of_column("group_by", name, group_by_column, self.snapshot, name)
            return grouping
        steps = read_steps(self.snapshot.manifest)
        if steps is None:
            raise InputError(
                "`group_by='track'`: no run of this index has tracks; link one with onepass.link"
            )
        return TrackTable(steps).grouping(self.snapshot)

    @cached_property
    def _embedder(self) -> Any:
        from pipelines.engines.embed import Embedder  # late: torch takes seconds

        manifest = self.snapshot.manifest
        if manifest.model is None:
            raise InputError(
                f"{self.snapshot.path.parent} holds vectors of {manifest.model_name}, which were not "
                "made here: there is no model to embed an image with; search by vector or detection"
            )
        return Embedder.load(manifest.model)

    def _embed(self, image: Image) -> npt.NDArray[np.float32]:
        from pipelines.images.errors import ImageError
        from pipelines.images.pixels import read  # late: torch takes seconds

        embedder = self._embedder
        try:
            data = image if isinstance(image, bytes) else read(read_path("images", image))
            vector: npt.NDArray[np.float32] = embedder.embed_bytes(data).embedding
        except ImageError as error:
            name = f"{len(image)} bytes" if isinstance(image, bytes) else str(image)
            raise InputError(f"`images`: {name}: {error}") from None
        return vector
