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

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs
from upath import UPath

from cluster.errors import StorageError, first_line

SCHEMES = ("s3", "gs")

_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 15.0  # a request that moves no byte for so long is given up, and tried again
_TRIES = 6
_GS_SECONDS = 120.0  # of one operation with all its tries


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

    # fsspec's own take a store that does not answer for one where nothing stands.
    def exists(self, path: str, **_: Any) -> bool:
        return bool(self._type(path) != fs.FileType.NotFound)

    def isfile(self, path: str) -> bool:
        return bool(self._type(path) == fs.FileType.File)

    def isdir(self, path: str) -> bool:
        return bool(self._type(path) == fs.FileType.Directory)

    def _type(self, path: str) -> fs.FileType:
        return self.fs.get_file_info(self._strip_protocol(path).rstrip("/")).type


class _S3(_ArrowStore):
    protocol = "s3"

    @staticmethod
    def _client() -> fs.FileSystem:
        # Arrow itself does not read this variable.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return fs.S3FileSystem(
            endpoint_override=endpoint,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_SILENT_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
        )


class _GS(_ArrowStore):
    protocol = "gs"

    @staticmethod
    def _client() -> fs.FileSystem:
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_GS_SECONDS))


for _store in (_S3, _GS):
    fsspec.register_implementation(_store.protocol, _store, clobber=True)


def is_remote(name: str | Path) -> bool:
    """Whether ``name`` lies in an object store."""
    return str(name).startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def place(name: str | Path) -> Path:
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


@contextmanager
def reaching(name: str | Path) -> Iterator[None]:
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
