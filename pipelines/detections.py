"""Contract 1: the detections table.

A *detection* is a region of an image, or the whole image when it has no box. It is the row of
plans, runs, indexes and tracks.

Only ``image`` is required of a user. ``complete`` fills in the rest without opening an image, so
that planning a million rows takes seconds:

==============  ================  =====================================================
column          type              when it is not given
==============  ================  =====================================================
image           string            required; relative names are relative to the source;
                                  ``clip.mp4#frame=12`` is a frame of a video, from 0
x1 y1 x2 y2     float32, null     null: the whole image (pixels, after EXIF rotation)
detection_id    string            hash of the image's content and name and of the box
                                  (``sources/contents.py``); exact repeats get ``-2``, ``-3``
sequence        string            the folder of the image
timestamp       timestamp[us]     fourteen digits in the file name; else EXIF
                                  (``sources/contents.py``)
frame           int64             the number in the name, where all images of a sequence
                                  are frames of one clip; else the image's position in its
                                  sequence, by time, then by name (``frame_numbers.py``)
row_id          int64             position in the plan
==============  ================  =====================================================

Unknown columns pass through untouched.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import SourceError, first_line
from common.storage import is_remote
from common.untrusted import refuse_pickled
from pipelines.frame_names import file_in
from pipelines.frame_numbers import number_frames
from pipelines.times import read_times

BOX = ("x1", "y1", "x2", "y2")
IMAGE_HASH = "image_hash"  # of the content of each row's image file; see ``sources/contents.py``
IMAGE_DAMAGE = "image_damage"  # what is wrong with an image that was kept all the same

PLAN_SCHEMA = pa.schema(
    [
        ("row_id", pa.int64()),
        ("detection_id", pa.string()),
        ("image", pa.string()),
        *((name, pa.float32()) for name in BOX),
        ("sequence", pa.string()),
        ("timestamp", pa.timestamp("us")),
        ("frame", pa.int64()),
    ]
)

TOPK_TYPE = pa.list_(
    pa.struct([("label", pa.string()), ("label_index", pa.int32()), ("score", pa.float32())])
)


def result_fields(
    feature_dim: int,
    *,
    num_classes: int | None = None,
    maps: Mapping[str, int] | None = None,
    gate: bool = False,
    damage: bool = False,
) -> list[pa.Field]:
    """Fields that extraction adds to the plan's, in the order they are written.

    A row with an ``error`` has no class, and NaN in lists of fixed size: Arrow before 26 cannot
    read back a null list of fixed size.

    Args:
        feature_dim: of the embedding.
        num_classes: adds the column ``logits``.
        maps: adds a column of flattened numbers for each name and size.
        gate: adds the gate's label and score.
        damage: adds what is wrong with an image that was kept all the same.
    """
    fields = [
        pa.field("label", pa.string()),
        pa.field("label_index", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("topk", TOPK_TYPE),
        pa.field("embedding", pa.list_(pa.float32(), feature_dim)),
    ]
    if num_classes is not None:
        fields.append(pa.field("logits", pa.list_(pa.float32(), num_classes)))
    for name, size in (maps or {}).items():
        fields.append(pa.field(name, pa.list_(pa.float32(), size)))
    if gate:
        fields.append(pa.field("gate_label", pa.string()))
        fields.append(pa.field("gate_score", pa.float32()))
    if damage:
        fields.append(pa.field(IMAGE_DAMAGE, pa.string()))
    fields.append(pa.field("error", pa.string()))
    return fields


RESULT_COLUMNS = (
    *("label", "label_index", "score", "topk", "embedding", "logits", "feature_map"),
    *("gate_label", "gate_score", IMAGE_DAMAGE, "error", IMAGE_HASH),
)

# Of columns between the stages, and of the levels of a pyramid.
_INTERNAL_PREFIXES = ("decode:", "link:", "update:", "pyramid/")
_BATCH_ROWS = 65_536  # that are Python objects at a time
_FOURTEEN_DIGITS = re.compile(r"(?<!\d)((?:19|20)\d{12})(?!\d)")


def complete(
    table: pa.Table,
    *,
    where: str,
    folder: str = ".",
    note: Callable[[str], None] = lambda text: None,
) -> pa.Table:
    """Fill in every contract column a user left out; rows of one image become adjacent.

    Args:
        table: with a column ``image``.
        where: the source, for error messages.
        folder: the sequence of images without a folder of their own.
        note: receives how unusual values were read.

    Raises:
        SourceError: no ``image`` column, a contract column of the wrong type, times that cannot be
            understood, a given ``detection_id`` that is missing or repeated, a column that is there
            twice, a column name that extraction itself writes, or a column that runs code when it
            is read.
    """
    refuse_pickled(table.schema, where)
    refuse_repeated(table.column_names, where)
    if "image" not in table.column_names:
        raise SourceError(
            f"{where} has no column 'image' (it has {', '.join(table.column_names) or 'none'}); "
            "name the column with the image paths 'image'"
        )
    _refuse_reserved(table.column_names, where)
    if table.num_rows == 0:
        raise SourceError(f"{where} has no rows; there is nothing to extract")
    table = _cast_given(
        table.drop_columns([c for c in ("row_id",) if c in table.column_names]), where, note
    )
    missing_image = pc.sum(pc.is_null(table["image"])).as_py()
    if missing_image:
        raise SourceError(f"{where}: {missing_image} rows have no image path; fill in or drop them")
    table = _group_by_image(table)

    columns: dict[str, pa.ChunkedArray | pa.Array] = {
        "row_id": pa.array(np.arange(table.num_rows, dtype=np.int64)),
        "image": table["image"],
    }
    for name in BOX:
        columns[name] = (
            table[name] if name in table.column_names else pa.nulls(table.num_rows, pa.float32())
        )
    columns["detection_id"] = _detection_ids(table, columns, where)
    columns["sequence"] = _sequences(table, folder)
    columns["timestamp"] = _timestamps(table)
    columns["frame"] = _frames(table, columns, note)
    ordered = {field.name: columns[field.name] for field in PLAN_SCHEMA}
    passed = {name: table[name] for name in table.column_names if name not in ordered}
    return pa.table({**ordered, **passed}).combine_chunks()


def refuse_repeated(names: Sequence[str], where: str) -> None:
    """Check that no two columns have one name.

    Args:
        names: of the columns.
        where: the source, for the message.

    Raises:
        SourceError: two have.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise SourceError(f"{where} has the column {repeated[0]!r} twice; rename or remove one")


def _refuse_reserved(names: Sequence[str], where: str) -> None:
    for name in names:
        if name in RESULT_COLUMNS or name.startswith(_INTERNAL_PREFIXES):
            raise SourceError(
                f"{where} has a column {name!r}, which extraction writes itself; rename it"
            )


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with a column in place of the one of this name, or as its last.

    Args:
        table: N rows.
        name: of the column.
        values: N.
    """
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def _cast_given(table: pa.Table, where: str, note: Callable[[str], None]) -> pa.Table:
    for field in PLAN_SCHEMA:
        if field.name not in table.column_names:
            continue
        given = table[field.name]
        try:
            if field.name == "timestamp":
                cast = read_times(given, lambda text: note(f"column 'timestamp': {text}"))
            else:
                cast = given.cast(field.type)
        except pa.ArrowException as error:
            raise SourceError(
                f"{where}: column {field.name!r} is {given.type} and cannot be read as "
                f"{field.type} ({first_line(error)})"
            ) from None
        except ValueError as error:
            raise SourceError(f"{where}: column {field.name!r}: {error}") from None
        table = with_column(table, field.name, cast)
    return table


def _group_by_image(table: pa.Table) -> pa.Table:
    """Bring rows of one image together, in order of first appearance."""
    codes = table["image"].combine_chunks().dictionary_encode().indices.to_numpy()
    if np.all(codes[1:] >= codes[:-1]):
        return table
    return table.take(pa.array(np.argsort(codes, kind="stable")))


def make_detection_id(
    image: str, box: tuple[float, ...] | None, image_hash: str | None = None
) -> str:
    """Stable id of a region: 128 bits of a hash over the image's content and name, and the box.

    Args:
        image: its name, as in the plan.
        box: x1, y1, x2, y2 in pixels; None: the whole image.
        image_hash: of its content; None, as of an image that cannot be read: by name alone, which
            is how version 0.1.0 made all ids.
    """
    where = "" if box is None else "{:.3f},{:.3f},{:.3f},{:.3f}".format(*map(np.float32, box))
    return _hash(f"{_named(image, image_hash)}|{where}")


def _named(image: str, image_hash: str | None) -> str:
    return image if image_hash is None else f"{image_hash}|{image}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _detection_ids(
    table: pa.Table, columns: dict[str, pa.ChunkedArray | pa.Array], where: str
) -> pa.Array:
    if "detection_id" in table.column_names:
        given = table["detection_id"].combine_chunks()
        if given.null_count:
            raise SourceError(
                f"{where}: {given.null_count} rows have no detection_id; fill them in"
            )
        counts = pc.value_counts(given)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(repeated):
            first = repeated[0].as_py()
            raise SourceError(
                f"{where}: detection_id {first['values']!r} occurs {first['counts']} times; "
                "ids must be unique (leave the column out to have them made)"
            )
        return given
    return derive_ids(
        pa.table([columns["image"], *(columns[name] for name in BOX)], ["image", *BOX])
    )


def derive_ids(plan: pa.Table) -> pa.Array:
    """Ids of rows from their image and box, and from their ``image_hash`` where it is known.

    Args:
        plan: with the columns ``image`` and ``BOX``, and with or without ``image_hash``.
    """
    seen: dict[str, int] = {}
    ids: list[str] = []
    if IMAGE_HASH not in plan.column_names:
        plan = plan.append_column(IMAGE_HASH, pa.nulls(plan.num_rows, pa.string()))
    for batch in plan.select(["image", IMAGE_HASH, *BOX]).to_batches(max_chunksize=_BATCH_ROWS):
        values = (column.to_pylist() for column in batch.columns)
        for image, image_hash, x1, y1, x2, y2 in zip(*values, strict=True):
            if x1 is y1 is x2 is y2 is None:
                new_id = make_detection_id(image, None, image_hash)
            elif None in (x1, y1, x2, y2):
                box = tuple(np.nan if value is None else value for value in (x1, y1, x2, y2))
                new_id = make_detection_id(image, box, image_hash)
            else:
                # As ``make_detection_id`` does, but faster: they are float32 already.
                named = _named(image, image_hash)
                new_id = _hash(f"{named}|{x1:.3f},{y1:.3f},{x2:.3f},{y2:.3f}")
            seen[new_id] = times = seen.get(new_id, 0) + 1
            ids.append(new_id if times == 1 else f"{new_id}-{times}")
    return pa.array(ids, pa.string())


def _fill(given: pa.ChunkedArray | None, default: pa.Array) -> pa.ChunkedArray | pa.Array:
    return default if given is None else pc.coalesce(given, default)


def _given_column(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    column = table[name] if name in table.column_names else None
    return None if column is None or column.null_count == len(column) else column


def _per_image(table: pa.Table, function: Callable[[str], object], kind: pa.DataType) -> pa.Array:
    """Apply ``function`` once to each distinct image name, and repeat the value for its rows."""
    encoded = table["image"].combine_chunks().dictionary_encode()
    values = pa.array([function(name) for name in encoded.dictionary.to_pylist()], kind)
    return values.take(encoded.indices)


def _sequences(table: pa.Table, folder: str) -> pa.ChunkedArray | pa.Array:
    """Name a sequence after its folder, without the common part of absolute names.

    The name goes into track ids and API answers, which must not show a disk's layout.
    """
    names = [_absolute(name) for name in pc.unique(table["image"]).to_pylist()]
    absolute = [str(PurePosixPath(name).parent) for name in names if name.startswith("/")]
    base = PurePosixPath(os.path.commonpath(absolute)).parent if absolute else None

    def sequence(image: str) -> str:
        parent = PurePosixPath(_absolute(file_in(image))).parent
        if base is not None and parent.is_absolute():
            parent = parent.relative_to(base)
        return folder if parent == PurePosixPath() else parent.as_posix()

    return _fill(_given_column(table, "sequence"), _per_image(table, sequence, pa.string()))


def _absolute(image: str) -> str:
    """A name in an object store as an absolute one, which starts with the bucket."""
    return "/" + image.split("://", 1)[1] if is_remote(image) else image


def timestamp_in_name(image: str) -> datetime | None:
    """Read ``YYYYMMDDHHMMSS`` out of a file name; None where there is none."""
    match = _FOURTEEN_DIGITS.search(PurePosixPath(image).name)
    if match is None:
        return None
    try:
        return datetime.strptime(match.group(1), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _timestamps(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    from_names = _per_image(table, timestamp_in_name, pa.timestamp("us"))
    return _fill(_given_column(table, "timestamp"), from_names)


def _frames(
    table: pa.Table,
    columns: Mapping[str, pa.ChunkedArray | pa.Array],
    note: Callable[[str], None],
) -> pa.ChunkedArray | pa.Array:
    given = _given_column(table, "frame")
    keys = pa.table({name: columns[name] for name in ("sequence", "timestamp", "image")})
    if given is not None:
        frames = keys.append_column("frame", given).filter(given.is_valid())
        images = frames.group_by(["sequence", "frame"]).aggregate([("image", "count_distinct")])
        shared = pc.sum(pc.greater(images["image_count_distinct"], 1)).as_py()
        if shared:
            note(
                f"column 'frame': {shared} times several images of a sequence have one number, and "
                "count as taken at once"
            )
        if not given.null_count:
            return given
    return _fill(given, number_frames(keys))
