"""File systems of object stores: Arrow's clients, under the interface that ``UPath`` needs.

Arrow's clients are those that Ray Data writes with, so there is one set of credentials, time limits
and retries. Importing this module registers ``s3://`` and ``gs://`` with fsspec.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from common.errors import StorageError
from common.network import check_port

_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 15.0  # a request that moves no byte for so long is given up, and tried again
_TRIES = 8  # waiting 25, 50, 100 … ms between them, 6 s in all
_READ_TRIES = 3  # of a part of a file
_BUFFER_BYTES = 2**20
_GS_SECONDS = 60.0  # of one operation with all its tries
_METADATA_SECONDS = 2.0


def read_with_retries(read: Callable[[], Any]) -> Any:
    """Call ``read`` again where Amazon's client takes a passing error for a final one.

    It does where fewer bytes are requested than the store's error message has.
    """
    for _ in range(_TRIES):
        try:
            return read()
        except OSError as error:
            if "Failed to flush response stream" not in str(error):
                raise
    return read()


class _RetryingFile(io.RawIOBase):
    """A file of a store that reads again what broke off in the middle of an answer.

    The clients repeat requests that failed, but not every answer that was cut.
    """

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stream.size()}
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._read(self._stream.size())

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _read(self, limit: int) -> bytes:
        count = max(0, min(limit, self._stream.size() - self._position))
        for tries_left in reversed(range(_READ_TRIES)):
            try:
                data: bytes = read_with_retries(lambda: self._stream.read_at(count, self._position))
                break
            except OSError:
                if not tries_left:
                    raise
        self._position += len(data)
        return data


class _ArrowStore(ArrowFSWrapper):  # type: ignore[misc]
    """An Arrow file system under fsspec's interface, one a process."""

    root_marker = ""
    # The wrapper's own is bound to an instance, and UPath calls it on the class.
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

    def walk(self, path: str, **options: Any) -> Iterator[Any]:
        # fsspec's default skips folders that the store did not list, and so would every glob.
        def raise_unless_missing(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        yield from super().walk(path, **{**options, "on_error": raise_unless_missing})

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **more: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, block_size, **more)
        return io.BufferedReader(_RetryingFile(self.fs.open_input_file(path)), _BUFFER_BYTES)

    # fsspec's own answer False where the store does not answer.
    def exists(self, path: str, **_: Any) -> bool:
        return bool(self._type(path) != fs.FileType.NotFound)

    def isfile(self, path: str) -> bool:
        return bool(self._type(path) == fs.FileType.File)

    def isdir(self, path: str) -> bool:
        return bool(self._type(path) == fs.FileType.Directory)

    def _type(self, path: str) -> fs.FileType:
        return self.fs.get_file_info(self._strip_protocol(path)).type


class _S3Client(fs.S3FileSystem):  # type: ignore[misc]
    """Arrow's client, which pickles without secrets and keeps its limits and retries."""

    def __init__(self) -> None:
        super().__init__(
            # Arrow itself does not read this variable.
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL"),
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_SILENT_SECONDS,
            allow_delayed_open=True,  # a file that fits in one request is sent in one
            # The standard strategy repeats nothing after a hundred retries in its life.
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
        if not _has_google_credentials():
            raise StorageError(
                "gs:// without credentials: set GOOGLE_APPLICATION_CREDENTIALS to a key file, or "
                "give 'gcloud auth application-default login'"
            )
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_GS_SECONDS))


def _has_google_credentials() -> bool:
    """Whether there are credentials; Google's client itself would search for minutes."""
    if {"GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"} & os.environ.keys():
        return True
    if Path("~/.config/gcloud/application_default_credentials.json").expanduser().is_file():
        return True
    try:  # a virtual machine of Google's has its own
        check_port("metadata.google.internal", 80, seconds=_METADATA_SECONDS)
    except OSError:
        return False
    return True


for _store in (_S3, _GS):
    fsspec.register_implementation(_store.protocol, _store, clobber=True)
