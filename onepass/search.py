"""Indexes in Python: ``open_index``, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from common.errors import InputError
from common.moved import Moved, read_pairs
from index.build import update, versions
from index.build.changes import RowChanges
from index.search.snapshot import Snapshot
from index.storage.layout import SnapshotManifest
from onepass.arguments import pairs_of, read_path, read_sources, warn
from onepass.ids import describe_unknown
from onepass.query_arguments import read_filter
from onepass.searching import IndexSearch
from pipelines.run import Run


def open_index(path: str | Path, version: str | None = None, *, images: Moved = None) -> Index:
    """Open an index for searching.

    Args:
        path: its folder, on this machine or in an object store.
        version: name of a version, as ``v0001``; None: the one that is served.
        images: folders of images that were moved: old folder to new folder. A project that was
            moved as a whole needs none.

    Raises:
        InputError: there is no index, or no such version.
        VerifyError: a file of it is damaged or missing.

    Example:
        >>> index = onepass.open_index("photos.index")
        >>> len(index)
        12
    """
    pairs = read_pairs(images)
    return Index(Snapshot.open(read_path("path", path), version, pairs=pairs))


class Index(IndexSearch):
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

    def add(
        self,
        runs: Run | str | Path | Sequence[Run | str | Path],
        *,
        replace: bool = False,
        strict: bool = False,
        id_column: str | None = None,
        model: str | None = None,
    ) -> Index:
        """Publish a version that also holds what is new in runs or files of the same model.

        What is left out is a warning.

        Args:
            runs: one or several, opened or by their folders; or files of vectors.
            replace: take rows that have changed, too, in place of those of the same id.
            strict: refuse vectors that are zero or not finite, which are left out otherwise.
            id_column: of files: the column with the ids.
            model: of files: what made the vectors; None: what made those of the index.

        Returns:
            The new version, open; the served one, where nothing is new.

        Raises:
            InputError: a run does not fit, or, without ``replace``, another run has brought an id
                with other content.
        """
        found: list[RowChanges] = []
        snapshot = update.add_runs(
            self.path,
            read_sources("runs", runs),
            replace=replace,
            strict=strict,
            id_column=id_column,
            model_name=model,
            pairs=pairs_of(runs),
            on_changes=found.append,
        )
        notes = [*snapshot.manifest.notes, snapshot.manifest.warning or ""]
        warn([*found[0].describe(), *filter(None, notes if found[0].taken else ())])
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
        before, filter = Snapshot.open(self.path), read_filter(where, ids)
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
