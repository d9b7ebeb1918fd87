"""Rows decoded in one piece or in parts: the same pixels, times and errors."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.detections import complete
from pipelines.images.decode import GATE_PIXELS, PIXELS, decode_batches, decode_rows, unpack
from pipelines.images.reader import ImageReader
from pipelines.model_info import Preprocess
from pipelines.sources.read import read_source
from tests.helpers.pictures import bad_folder, drawn, encoded
from tests.helpers.videos import write_video

HALF = (0.5, 0.5, 0.5)
INPUTS = {
    PIXELS: Preprocess(input_size=(32, 32), mean=HALF, std=HALF),
    GATE_PIXELS: Preprocess(input_size=(16, 24), resize="pad", mean=HALF, std=HALF),
}
TAKEN = datetime(2022, 7, 28, 23, 22, 39)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = bad_folder(tmp_path_factory.mktemp("pictures"))
    exif = drawn(5).getexif()
    exif.get_ifd(0x8769)[0x9003] = f"{TAKEN:%Y:%m:%d %H:%M:%S}"
    (folder / "dated.jpg").write_bytes(encoded(drawn(5), exif=exif))
    write_video(folder / "clip.mp4", 10)
    return folder


@pytest.fixture(scope="module")
def plan(folder: Path) -> pa.Table:
    """Images with trouble of every kind, several boxes of one image, and frames of a video."""
    bad = read_source(str(folder / "rows.csv")).table
    frames = [f"clip.mp4#frame={number}" for number in range(10)]
    names = ["dated.jpg"] * 5 + frames
    near = [float(at) for at in range(len(names))]
    far = [at + 20 for at in near]
    boxes = {"x1": near, "y1": near, "x2": far, "y2": far}
    more = complete(pa.table({"image": names, **boxes}), where="test plan")
    table = pa.concat_tables([bad.select(more.column_names), more])
    at = table.column_names.index("row_id")
    return table.set_column(at, "row_id", pa.array(range(table.num_rows), pa.int64()))


@pytest.mark.parametrize("most", [1, 2, 7, 16, 1000])
@pytest.mark.parametrize("known", [False, True])
def test_parts_are_the_rows_of_the_whole(
    plan: pa.Table, folder: Path, most: int, known: bool
) -> None:
    if known:  # errors that the plan has already
        errors = ["known: before"] + [None] * (plan.num_rows - 2) + ["known: before"]
        plan = plan.append_column("error", pa.array(errors, pa.string()))
    reported: list[int] = []
    whole = decode_rows(plan, folder, INPUTS)
    parts = list(decode_batches(plan, folder, INPUTS, most, done=reported.append))
    assert max(part.num_rows for part in parts) <= most
    assert sum(reported) == plan.num_rows
    joined = pa.concat_tables(parts)
    assert joined.schema == whole.schema
    pixels = [*INPUTS]
    values, expected = (rows.drop_columns(pixels).to_pandas() for rows in (joined, whole))
    pd.testing.assert_frame_equal(values, expected)  # there, NaN is NaN
    for name, how in INPUTS.items():
        assert np.array_equal(unpack(joined, name, how), unpack(whole, name, how))
    assert 5 < joined["error"].null_count < plan.num_rows
    assert TAKEN in joined["timestamp"].to_pylist()


def test_an_image_with_rows_in_two_parts_is_decoded_once(
    plan: pa.Table, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ImageReader.read
    seen = Counter[str]()

    def counted(self: ImageReader, name: str) -> object:
        seen[name] += 1
        return read(self, name)

    monkeypatch.setattr(ImageReader, "read", counted)
    boxes = plan.filter(pc.equal(plan["image"], "dated.jpg"))
    parts = list(decode_batches(boxes, folder, INPUTS, 2))
    assert [part.num_rows for part in parts] == [1, 2, 2]
    assert seen == {"dated.jpg": 1}


def test_no_rows_are_one_part_of_none(plan: pa.Table, folder: Path) -> None:
    (part,) = decode_batches(plan.slice(0, 0), folder, INPUTS, 16)
    assert part.num_rows == 0
    assert {PIXELS, GATE_PIXELS, "error"} <= set(part.column_names)
    assert unpack(part, PIXELS, INPUTS[PIXELS]).shape == (0, 32, 32, 3)
