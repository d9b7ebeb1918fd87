"""Indexes in Python: ``open_index``, and what it returns."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from common.moved import Moved, read_pairs
from index.build import update, versions
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import SnapshotManifest
from onepass.arguments import PATH, pairs_of, read_path, read_sources, warn
from onepass.hits import Hits
from onepass.ids import describe_unknown
from pipelines.run import Run

Image = str | Path | bytes


def open_index(path: str | Path, version: str | None = None, *, images: Moved = None) -> Index:
    """Open an index for searching.

    Args:
        path: its folder, on this machine or in an object store.
        version: name of a version, as ``v0001``; None: the one that is served.
        images: folders of images that were moved: old folder to new folder. A project that was
            moved as a whole needs none.

    Raises:
        InputError: there is no index, or no such version.

    Example:
        >>> index = onepass.open_index("photos.index")
        >>> len(index)
        12
    """
    pairs = read_pairs(images)
    return Index(Snapshot.open(read_path("path", path), version, pairs=pairs))


class Index:
    """One version of an index, open for searching; it never changes.

    Attributes:
        snapshot: the version's files, for more than searching.

    Example:
        >>> index = onepass.open_index("photos.index")
        >>> hits = index.search_images("photos/night0/0.jpg", k=3)
        >>> hits.ids.shape, hits.scores.dtype
        ((3,), dtype('float32'))
        >>> hits.to_pandas()["image"][0]
        'night0/0.jpg'
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def __len__(self) -> int:
        return self.manifest.rows

    def __repr__(self) -> str:
        manifest = self.manifest
        return (
            f"Index({str(self.path)!r}, {self.version}: {manifest.rows:,} vectors of "
            f"{manifest.dim}, {manifest.metric}, {manifest.model_name})"
        )

    @property
    def path(self) -> Path:
        """The index folder."""
        return self.snapshot.path.parent

    @property
    def version(self) -> str:
        """Name of the version that is open."""
        return self.manifest.version

    @property
    def manifest(self) -> SnapshotManifest:
        """Runs, model, options, and the recall measured."""
        return self.snapshot.manifest

    @property
    def versions(self) -> list[str]:
        """Names of all versions in the folder, oldest first."""
        return [entry.manifest.version for entry in versions.history(self.path)]

    def search(
        self,
        vectors: npt.ArrayLike,
        k: int = 10,
        *,
        where: str | None = None,
        ids: Iterable[str] | None = None,
        exact: bool = False,
    ) -> Hits:
        """Find the k nearest detections of each vector.

        Args:
            vectors: ``[N, D]``, or ``[D]`` for one query: raw embeddings of the index's model.
            k: neighbours of each; fewer where fewer rows match.
            where: SQL condition on the columns of a row, as ``"label = 'moth' AND score > 0.5"``.
            ids: only these detections; an empty list: none. Unknown ids are a warning.
            exact: compare with every vector instead of using the approximate index.

        Returns:
            Ids and scores ``[N, k]``, or ``[k]`` for one query, nearest first.

        Raises:
            InputError: ``vectors`` do not fit the index, or ``k``, ``where`` or ``ids`` is wrong.

        Example:
            >>> run, index = onepass.open_run("runs/first"), onepass.open_index("photos.index")
            >>> index.search(run.embeddings(), k=2).ids.shape
            (12, 2)
        """
        queries, filter = _numbers(vectors), _filter(where, ids)
        rows = self.snapshot.search(np.atleast_2d(queries), _count(k), filter=filter, exact=exact)
        warn(describe_unknown(self.snapshot, filter.ids))
        return Hits(self.snapshot, rows, single=queries.ndim == 1)

    def search_images(
        self,
        images: Image | Sequence[Image],
        k: int = 10,
        *,
        where: str | None = None,
        ids: Iterable[str] | None = None,
        exact: bool = False,
    ) -> Hits:
        """Find the k nearest detections of each image, embedded now with the index's model.

        Args:
            images: a file or its bytes, or several of them.
            k: neighbours of each; fewer where fewer rows match.
            where: SQL condition on the columns of a row.
            ids: only these detections; an empty list: none. Unknown ids are a warning.
            exact: compare with every vector instead of using the approximate index.

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
        return self.search(vectors[0] if single else vectors, k, where=where, ids=ids, exact=exact)

    def neighbors(
        self,
        detection_id: str,
        k: int = 10,
        *,
        where: str | None = None,
        ids: Iterable[str] | None = None,
        exact: bool = False,
    ) -> Hits:
        """Find the k detections nearest to one of the index, which is not among them.

        Args:
            detection_id: the query.
            k: neighbours; fewer where fewer rows match.
            where: SQL condition on the columns of a row.
            ids: only these detections; an empty list: none. Unknown ids are a warning.
            exact: compare with every vector instead of using the approximate index.

        Returns:
            Ids and scores ``[k]``, nearest first.

        Raises:
            InputError: there is no such detection, or as for ``search``.
        """
        if not isinstance(detection_id, str):
            raise InputError(f"`detection_id={detection_id!r}`: give a text")
        filter = _filter(where, ids)
        rows = self.snapshot.neighbors(detection_id, _count(k), filter=filter, exact=exact)
        warn(describe_unknown(self.snapshot, filter.ids))
        return Hits(self.snapshot, rows, single=True)

    def add(
        self,
        runs: Run | str | Path | Sequence[Run | str | Path],
        *,
        strict: bool = False,
        id_column: str | None = None,
        model: str | None = None,
    ) -> Index:
        """Publish a version that also holds the rows of more runs or files of the same model.

        Args:
            runs: one or several, opened or by their folders; or files of vectors.
            strict: refuse vectors that are zero or not finite; otherwise they are left out, and the
                first of them are named by a warning.
            id_column: of files: the column with the ids.
            model: of files: what made the vectors; None: what made those of the index.

        Returns:
            The new version, open; this one stays as it is.

        Raises:
            InputError: a run does not fit, or a detection is there already.
        """
        snapshot = update.add_runs(
            self.path,
            read_sources("runs", runs),
            strict=strict,
            id_column=id_column,
            model_name=model,
            pairs=pairs_of(runs),
        )
        warn(snapshot.manifest.notes)
        return Index(snapshot)

    def delete(self, where: str | None = None, *, ids: Iterable[str] | None = None) -> Index:
        """Publish a version without the rows that match.

        Args:
            where: SQL condition on the columns of a row.
            ids: detections; unknown ones are a warning.

        Returns:
            The new version, open; this one stays as it is.

        Raises:
            InputError: neither is given, or ``where`` is not a condition.
        """
        if where is None and ids is None:
            raise InputError("give `where`, `ids`, or both: which rows to delete")
        before, filter = Snapshot.open(self.path), _filter(where, ids)
        after, _ = update.delete_rows(self.path, filter)
        warn(describe_unknown(before, filter.ids))
        return Index(after)

    def promote(self, version: str) -> Index:
        """Serve another version of this folder from now on, once its files are verified.

        Args:
            version: its name, as ``versions`` lists it.

        Returns:
            That version, open.

        Raises:
            InputError: there is no such version.
            VerifyError: one of its files is damaged; the served version stays.
        """
        return Index(versions.promote(self.path, version))

    def rollback(self) -> Index:
        """Serve the version before the one that is served now.

        Returns:
            That version, open.

        Raises:
            InputError: there is none.
        """
        return Index(versions.rollback(self.path))

    def verify(self) -> int:
        """Check the sha256 of every file.

        Returns:
            The number of rows that a search can return.

        Raises:
            VerifyError: a file is damaged or missing.
        """
        return self.snapshot.verify()

    @cached_property
    def _embedder(self) -> Any:
        from pipelines.engines.embed import Embedder  # late: torch takes seconds

        if self.manifest.model is None:
            raise InputError(
                f"{self.path} holds vectors of {self.manifest.model_name}, which were not made here: "
                "there is no model to embed an image with; search by vector or detection"
            )
        return Embedder.load(self.manifest.model)

    def _embed(self, image: Image) -> npt.NDArray[np.float32]:
        from pipelines.images.pixels import ImageError, read  # late: torch takes seconds

        embedder = self._embedder
        try:
            data = image if isinstance(image, bytes) else read(read_path("images", image))
            vector: npt.NDArray[np.float32] = embedder.embed_bytes(data).embedding
        except ImageError as error:
            name = f"{len(image)} bytes" if isinstance(image, bytes) else str(image)
            raise InputError(f"`images`: {name}: {error}") from None
        return vector


def _numbers(vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    try:
        values = np.asarray(vectors)
        kind, shape = values.dtype.kind, values.shape
    except ValueError:  # rows of several lengths
        kind, shape = "O", ()
    if kind not in "fiu" or len(shape) not in (1, 2):
        raise InputError(
            f"`vectors`: give numbers [N, D], or [D] for one query, not {type(vectors).__name__} "
            f"of shape {shape}"
        )
    return values.astype(np.float32, copy=False)


def _count(k: Any) -> int:
    try:
        return int(operator.index(k))  # whole numbers of NumPy too
    except TypeError:
        raise InputError(f"`k={k!r}`: give a whole number") from None


def _filter(where: str | None, ids: Iterable[str] | None) -> Filter:
    if where is not None and not isinstance(where, str):
        raise InputError(f"`where={where!r}`: give a text, as \"label = 'moth'\"")
    if ids is None:
        return Filter(where)
    names = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise InputError(f"`ids={ids!r}`: give a list of detection ids")
    return Filter(where, frozenset(names))
