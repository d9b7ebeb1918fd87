"""Parquet files, with a checksum of every page: damage is an error that names the file.

Pages are checked as they are read. Footers and the headers of pages have no checksum, nor have files
of other programs and of earlier versions; what a manifest names is compared with its sha256 besides
(``common.manifests.check_file``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import DamagedFileError, first_line
from common.object_stores import read_with_retries
from common.refusals import refusal
from common.storage import arrow, is_remote, write_bytes
from common.untrusted import refuse_pickled

WRITE_OPTIONS = {"write_page_checksum": True}
"""Of every writer of Parquet files here, pyarrow's or Ray Data's."""

# Of a file and not of a store, whose errors are of the same type.
_DAMAGE = ("page integrity", "thrift", "end of stream", "Corrupt", "decompress")


class _ParquetFile(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file whose errors name it."""

    def __init__(self, file: Path) -> None:
        system, name = arrow(file)
        self._file = file
        # Without pre_buffer a row group is read as it is needed, and not at once.
        super().__init__(name, filesystem=system, pre_buffer=False, page_checksum_verification=True)

    def iter_batches(self, *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        with _damage_named(self._file):
            yield from super().iter_batches(*args, **options)

    def read_row_group(self, *args: Any, **options: Any) -> pa.Table:
        with _damage_named(self._file):
            return super().read_row_group(*args, **options)


def open_parquet(file: Path) -> pq.ParquetFile:
    """Open a Parquet file to read it in parts; the caller closes it.

    Raises:
        DamagedFileError: it is no Parquet file, or cut short; reading raises it where a page is
            damaged.
        SourceError: a column holds pickled Python objects.
    """
    with _damage_named(file):
        opened = read_with_retries(lambda: _ParquetFile(file))
        refuse_pickled(opened.schema_arrow, str(file))
    return opened


def read_parquet(file: Path, **options: Any) -> pa.Table:
    """Read a Parquet file; ``options`` are those of ``pyarrow.parquet.read_table``.

    Raises:
        DamagedFileError: it is no Parquet file, cut short, or a page of it is damaged.
        SourceError: a column holds pickled Python objects.
    """
    system, name = arrow(file)
    options |= {"filesystem": system, "page_checksum_verification": True}
    # Arrow has one type of error for a damaged file and for a filter that does not fit.
    with _damage_named(file, invalid="filters" not in options):
        table = read_with_retries(lambda: pq.read_table(name, **options))
    refuse_pickled(table.schema, str(file))
    return table


def parquet_bytes(table: pa.Table, *, compression: str = "snappy") -> pa.Buffer:
    """A table as the contents of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=compression, **WRITE_OPTIONS)
    return sink.getvalue()


def write_parquet(table: pa.Table, file: Path) -> str:
    """Write a table through memory, so that in an object store it can only appear whole.

    Returns:
        The sha256 of the file.
    """
    data = parquet_bytes(table)
    if is_remote(file):
        write_bytes(file, data)
    else:
        file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _damage_named(file: Path, *, invalid: bool = True) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into one line; other errors pass unchanged.

    Args:
        file: that is read.
        invalid: whether Arrow's own errors are of the file, and not of what was asked for.
    """
    try:
        yield
    except OSError as error:
        if is_remote(file):
            damaged = any(text in str(error) for text in _DAMAGE)
        else:
            damaged = type(error) is OSError and error.errno is None and refusal(error) is None
        if not damaged:
            raise
        raise DamagedFileError(file, first_line(error)) from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        if not invalid:
            raise
        raise DamagedFileError(file, first_line(error)) from error
