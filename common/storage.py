"""Folders by name: a path of this machine, or the URI of an object store.

Everything reaches object stores through Arrow's own clients, which every worker has and which
Ray Data writes with, so there is one set of credentials, time limits and retries. ``UPath`` gives
them the methods of ``pathlib.Path``; code says ``Path`` and works on both, and what differs stands
in this module:

- nothing may be renamed: in an object store that is a copy and a deletion, and a kill between the
  two leaves both. A file appears there whole when its write ends, so none needs to be.
- there are no folders, so nothing need be made or removed but files, and no locks.

Credentials, region and endpoint are found as the vendors' tools find them: ``AWS_*`` variables or
``~/.aws``, ``AWS_ENDPOINT_URL`` for a store of one's own, ``GOOGLE_APPLICATION_CREDENTIALS``.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs
from upath import UPath

from common.errors import StorageError, first_line
from common.untrusted import refuse_pickled

SCHEMES = ("s3", "gs")

_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 15.0  # a request that moves no byte for so long is given up, and tried again
_TRIES = 8  # waiting 25, 50, 100 … ms between them, 6 s in all
_READS = 3  # of a part of a file
_PUTS = 3  # of a file; a store may have done what it then answered an error to
_BUFFER = 2**20
_GS_SECONDS = 60.0  # of one operation with all its tries


class _Reread(io.RawIOBase):
    """A file of a store, asked again for what broke off in the middle: clients try requests again,
    but not every answer that was cut."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stream.size()}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._read(self._stream.size())

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _read(self, most: int) -> bytes:
        wanted = max(0, min(most, self._stream.size() - self._at))
        for left in reversed(range(_READS)):
            try:
                data: bytes = _surely(lambda: self._stream.read_at(wanted, self._at))
                break
            except OSError:
                if not left:
                    raise
        self._at += len(data)
        return data


class _ArrowStore(ArrowFSWrapper):  # type: ignore[misc]
    """An Arrow file system under fsspec's interface, one a process."""

    root_marker = ""
    # The wrapper's own is bound to an instance, and UPath asks the class.
    _parent: Any = classmethod(fsspec.AbstractFileSystem._parent.__func__)

    def __init__(self, **_: Any) -> None:
        super().__init__(self._client())

    @staticmethod
    def _client() -> fs.FileSystem:
        raise NotImplementedError

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        # The wrapper's takes what follows a question mark for a query, and a name may hold one.
        return str(path).removeprefix(f"{cls.protocol}://").rstrip("/")

    def walk(self, path: str, **how: Any) -> Iterator[Any]:
        # fsspec's own leaves out what a store did not answer for, and so would every glob.
        def told(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        yield from super().walk(path, **{**how, "on_error": told})

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **how: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, block_size, **how)
        return io.BufferedReader(_Reread(self.fs.open_input_file(path)), _BUFFER)

    # fsspec's own take a store that does not answer for one where nothing stands.
    def exists(self, path: str, **_: Any) -> bool:
        return bool(self._type(path) != fs.FileType.NotFound)

    def isfile(self, path: str) -> bool:
        return bool(self._type(path) == fs.FileType.File)

    def isdir(self, path: str) -> bool:
        return bool(self._type(path) == fs.FileType.Directory)

    def _type(self, path: str) -> fs.FileType:
        return self.fs.get_file_info(self._strip_protocol(path).rstrip("/")).type


def _surely(read: Callable[[], Any]) -> Any:
    """Read again where Amazon's client takes a passing error for a final one.

    It does where fewer bytes are asked for than the store's error message has.
    """
    for _ in range(_TRIES):
        try:
            return read()
        except OSError as error:
            if "Failed to flush response stream" not in str(error):
                raise
    return read()


class _S3Client(fs.S3FileSystem):  # type: ignore[misc]
    """Arrow's, which comes out of a pickle with its limits and its tries, and without secrets."""

    def __init__(self) -> None:
        super().__init__(
            # Arrow itself does not read this variable.
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL"),
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_SILENT_SECONDS,
            allow_delayed_open=True,  # what fits in one request is sent in one
            # Not the standard one: after a hundred retries in its life it tries nothing twice.
            retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=_TRIES),
        )

    def __reduce__(self) -> tuple[type[_S3Client], tuple[()]]:
        return _S3Client, ()


class _S3(_ArrowStore):
    protocol = "s3"

    @staticmethod
    def _client() -> fs.FileSystem:
        return _S3Client()


class _GS(_ArrowStore):
    protocol = "gs"

    @staticmethod
    def _client() -> fs.FileSystem:
        if not _google_knows_us():
            raise StorageError(
                "gs:// without credentials: set GOOGLE_APPLICATION_CREDENTIALS to a key file, or "
                "give 'gcloud auth application-default login'"
            )
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_GS_SECONDS))


def _google_knows_us() -> bool:
    """Whether there are credentials; Google's client looks for them for minutes."""
    if {"GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"} & os.environ.keys():
        return True
    if Path("~/.config/gcloud/application_default_credentials.json").expanduser().is_file():
        return True
    try:  # a machine of Google's has its own
        socket.create_connection(("metadata.google.internal", 80), timeout=2).close()
    except OSError:
        return False
    return True


for _store in (_S3, _GS):
    fsspec.register_implementation(_store.protocol, _store, clobber=True)


def is_remote(name: str | Path) -> bool:
    """Whether ``name`` lies in an object store."""
    return str(name).startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def to_path(name: str | Path) -> Path:
    """The folder or file of that name; in an object store a ``UPath``, which has Path's methods.

    Typed as a Path, because code should read one way for both.
    """
    if not is_remote(name):
        return Path(name)
    return cast(Path, UPath(str(name).rstrip("/")))


def arrow(path: Path) -> tuple[fs.FileSystem, str]:
    """The file system and name that pyarrow and Ray Data want."""
    if not is_remote(path):
        return fs.LocalFileSystem(), str(path)
    remote = cast(UPath, path)
    return remote.fs.fs, remote.path


def resolve_path(root: Path, name: str) -> Path:
    """The file ``name`` below ``root``, or where it says itself: an absolute path, a URI."""
    return to_path(name) if is_remote(name) or name.startswith("/") else root / name


def list_folder(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder under a name that fits, in name order; nothing where there is none.

    Raises:
        OSError: an object store did not answer.
    """
    if not is_remote(folder):
        return sorted(folder.glob(pattern))
    system, name = arrow(folder)
    found = system.get_file_info(fs.FileSelector(name, allow_not_found=True))
    names = (info.base_name for info in found if info.path.rstrip("/") != name)
    return [folder / name for name in sorted(names) if fnmatchcase(name, pattern)]


def holds_files(folder: Path) -> bool:
    """Whether a file lies somewhere below; folders of stores outlive the last file in them."""
    if not is_remote(folder):
        return folder.is_dir() and any(folder.iterdir())
    system, name = arrow(folder)
    found = system.get_file_info(fs.FileSelector(name, allow_not_found=True))
    inner = [folder / info.base_name for info in found if info.path.rstrip("/") != name]
    return any(info.is_file for info in found) or any(map(holds_files, inner))


def open_parquet(file: Path) -> pq.ParquetFile:
    """A Parquet file to be read in parts; close it."""
    system, name = arrow(file)
    # Without pre_buffer a row group is read as it is needed, and not at once.
    opened = _surely(lambda: pq.ParquetFile(name, filesystem=system, pre_buffer=False))
    refuse_pickled(opened.schema_arrow, str(file))
    return opened


def read_parquet(file: Path, **how: Any) -> pa.Table:
    """A Parquet file as a table; ``how`` as ``pyarrow.parquet.read_table`` takes it."""
    system, name = arrow(file)
    table = _surely(lambda: pq.read_table(name, filesystem=system, **how))
    refuse_pickled(table.schema, str(file))
    return table


def write_bytes(file: Path, data: bytes | pa.Buffer) -> None:
    """Write a small file of an object store, whole or not at all.

    Raises:
        OSError: the store refused, or did not answer; it may have done it all the same.
    """
    for left in reversed(range(_PUTS)):
        try:
            file.write_bytes(data)
            return
        except OSError:
            if not left:
                raise


def write_parquet(table: pa.Table, file: Path) -> None:
    """Write a table by way of memory, so that in an object store it can only appear whole."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    if is_remote(file):
        write_bytes(file, sink.getvalue())
    else:
        file.write_bytes(sink.getvalue())


def make_folder(folder: Path) -> None:
    """Make it where there are folders."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove it with all that is in it; one that is not there is fine.

    Raises:
        OSError: an object store refused; of this machine what cannot be removed is left.
    """
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    system, name = arrow(folder)
    with suppress(FileNotFoundError):
        system.delete_dir(name)


def refused(error: OSError) -> bool:
    """Whether a store has answered that this very object may not be read."""
    return isinstance(error, PermissionError | IsADirectoryError) or "ACCESS_DENIED" in str(error)


@contextmanager
def storage_errors(name: str | Path) -> Iterator[None]:
    """Tell in one line that an object store refused or did not answer.

    Raises:
        StorageError: in place of Arrow's ``OSError``; those of local files pass.
    """
    try:
        yield
    except OSError as error:
        if not is_remote(name):
            raise
        raise StorageError(
            f"{name} cannot be reached: {first_line(error)}; check the name, the credentials "
            "(AWS_*, ~/.aws or GOOGLE_APPLICATION_CREDENTIALS), the region and AWS_ENDPOINT_URL"
        ) from error
