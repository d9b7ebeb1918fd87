"""Files compared with their sha256: several at a time, and each once while it is unchanged.

What this process has compared it knows until it ends. Large files may be known for a day across the
processes of a user, where a command would otherwise read gigabytes to answer one question::

    ~/.cache/onepass/compared/4be1…    one file each: its path, its state, its sha256, and when

A file is unchanged as long as its inode, size and both times of change are; the second cannot be set
by a program. ``XDG_CACHE_HOME`` moves the folder, and it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from common.errors import VerifyError
from common.json_models import sha256_file, write_atomic
from common.refusals import read_errors
from common.storage import arrow, is_remote

Trust = Literal["nothing", "process", "user"]
"""Whose comparisons count, while a file is unchanged: nobody's, this process's, or of large files
those of the last day by any process of this user."""

KNOWN_BYTES = 16 * 2**20  # smaller ones take 10 ms, and no record
KNOWN_SECONDS = 86_400
_CLOCK_NS = 10**9  # more than the times of files are apart anywhere
_THREADS = min(4, os.cpu_count() or 1)  # sha256 leaves other threads alone


class _State(NamedTuple):
    """What of a file changes with its contents."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


_MOST = 10_000  # files that a process knows: a server opens new ones for months
_compared: dict[str, tuple[_State, str]] = {}  # by this process, the latest last
_lock = threading.Lock()


def compare(files: Mapping[Path, str], *, trust: Trust, then: str) -> None:
    """Compare files with their sha256.

    Args:
        files: on this machine or in an object store, to their sha256.
        trust: whose earlier comparisons count.
        then: the end of an error message: what to do next.

    Raises:
        VerifyError: one is missing or differs; names the first.
        FileAccessError: this machine refused to read one.
        StorageError: an object store does not answer.
    """
    if len(files) == 1:
        ((file, sha256),) = files.items()
        _compare(file, sha256, trust, then)
    elif files:
        with ThreadPoolExecutor(_THREADS) as pool:
            calls = [pool.submit(_compare, *each, trust, then) for each in files.items()]
            try:
                for call in calls:
                    call.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _compare(file: Path, sha256: str, trust: Trust, then: str) -> None:
    with read_errors(file):
        state = _state(file)
        if state is None:
            raise VerifyError(f"{file} is named in the manifest but missing{then}")
        if trust != "nothing" and _compared.get(str(file)) == (state, sha256):
            return
        if trust == "user" and _is_known(file, state, sha256):
            return
        if sha256_file(file) != sha256:
            _forget(file)
            raise VerifyError(f"{file} does not match its sha256 in the manifest{then}")
        # One that was only just written, or is being written, may change without a new time.
        now = time.time_ns()
        if now - max(state.modified_ns, state.changed_ns) > _CLOCK_NS and state == _state(file):
            with _lock:
                _compared[str(file)] = state, sha256
                if len(_compared) > _MOST:
                    del _compared[next(iter(_compared))]
            _remember(file, state, sha256)


def _state(file: Path) -> _State | None:
    """The state of a file; None: there is none."""
    if is_remote(file):
        system, name = arrow(file)
        info = system.get_file_info(name)
        return _State(0, 0, info.size, info.mtime_ns or 0, 0) if info.is_file else None
    try:
        now = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(now.st_mode):
        return None
    return _State(now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


def _record(file: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(str(file.absolute()).encode(errors="surrogateescape")).hexdigest()[:32]
    return Path(base) / "onepass" / "compared" / name


def _is_known(file: Path, state: _State, sha256: str) -> bool:
    if state.size < KNOWN_BYTES or is_remote(file):
        return False
    try:
        *known, when = json.loads(_record(file).read_bytes())
        return bool(known == [*state, sha256] and 0 <= time.time() - when < KNOWN_SECONDS)
    except (OSError, ValueError, TypeError, RuntimeError):  # none, damaged, or no home
        return False


def _forget(file: Path) -> None:
    """Of a file that has changed without a new time, no earlier comparison counts any more."""
    _compared.pop(str(file), None)
    with suppress(OSError, RuntimeError):
        _record(file).unlink(missing_ok=True)


def _remember(file: Path, state: _State, sha256: str) -> None:
    if state.size < KNOWN_BYTES or is_remote(file):
        return
    with suppress(OSError, RuntimeError):  # without a record it is only compared again
        record = _record(file)
        record.parent.mkdir(parents=True, exist_ok=True)
        for entry in record.parent.iterdir():
            if time.time() - entry.stat().st_mtime > KNOWN_SECONDS:
                entry.unlink(missing_ok=True)
        write_atomic(record, json.dumps([*state, sha256, time.time()]).encode())
