"""Which photo a name stands for: a hash of each image file's content, and ids made of it.

Two memory cards hold ``DCIM/100/IMG_0001.JPG`` each, so a name does not say which photo it is, and
neither does an absolute path, which changes when a project is moved. The content does: it is the
same for every model, wherever the folder lies and whatever is added to it.

Up to ``WHOLE_BYTES`` a file is hashed whole, and so are formats that store pixels uncompressed,
where an edit may change a few bytes in the middle. Of larger files the size and both ends are
hashed: of compressed photos and videos these differ where the pictures do, and to read a large
collection twice would cost as much as reading it for the network.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from common.moved import ImageRoot
from common.storage import is_access_denied, is_remote, open_file, storage_errors
from pipelines.detections import IMAGE_HASH, derive_ids, with_column
from pipelines.frame_names import parse_frame
from pipelines.sources.files import AT_ONCE, map_files
from pipelines.sources.plan import Plan

WHOLE_BYTES = 256 * 2**10
END_BYTES = 16 * 2**10  # of each end of a larger file
_UNCOMPRESSED = frozenset(
    {*(".bmp", ".dib", ".tga", ".dds", ".tif", ".tiff"), *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm")}
)
_CHUNK_BYTES = 2**20


def hash_file(file: Path) -> str | None:
    """Hash of a file's content, 32 hex digits; None where it cannot be read.

    Raises:
        StorageError: an object store did not answer.
    """
    try:
        with closing(open_file(file)) as stream:
            return _hash(stream, whole=file.suffix.lower() in _UNCOMPRESSED)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        if is_remote(file) and not missing and not is_access_denied(error):
            with storage_errors(file):
                raise
        return None


def _hash(stream: IO[bytes], *, whole: bool) -> str:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    if whole or size <= WHOLE_BYTES:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    else:
        digest.update(stream.read(END_BYTES))
        stream.seek(size - END_BYTES)
        digest.update(stream.read(END_BYTES))
    return digest.hexdigest()


def hash_images(
    images: Sequence[str],
    root: Path | ImageRoot,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[str | None]:
    """Hashes of images by name; frames of a video have that of the video.

    Args:
        images: their names, as in a plan.
        root: where they are.
        report: receives files read and files in all.

    Returns:
        A hash for each of ``images``; None where its file cannot be read.

    Raises:
        StorageError: an object store did not answer.
    """
    where = root if isinstance(root, ImageRoot) else ImageRoot(root)
    files = [frame.file if (frame := parse_frame(name)) else name for name in images]
    distinct = list(dict.fromkeys(files))
    digests = map_files(lambda name: hash_file(where.path(name)), distinct, AT_ONCE, report)
    hashes = dict(zip(distinct, digests, strict=True))
    return [hashes[name] for name in files]


def append_hashes(
    table: pa.Table, root: ImageRoot, report: Callable[[int, int], None] = lambda done, total: None
) -> pa.Table:
    """Rows of a plan with the column ``image_hash``.

    Args:
        table: the rows.
        root: where their images are.
        report: receives files read and files in all.

    Raises:
        StorageError: an object store did not answer.
    """
    encoded = table["image"].combine_chunks().dictionary_encode()
    hashes = hash_images(encoded.dictionary.to_pylist(), root, report)
    return table.append_column(IMAGE_HASH, pa.array(hashes, pa.string()).take(encoded.indices))


def with_hashes(plan: Plan, report: Callable[[int, int], None] = lambda done, total: None) -> Plan:
    """The plan with the column ``image_hash``, and with ids made of it where none were given.

    Args:
        plan: as its source was read.
        report: receives files read and files in all.

    Raises:
        StorageError: an object store did not answer.
    """
    table = append_hashes(plan.table, plan.images, report)
    if not plan.ids_given:
        ids = pc.binary_join_element_wise(plan.id_prefix or "", derive_ids(table), "")
        table = with_column(table, "detection_id", ids)
    return replace(plan, table=table)
