"""A folder of damaged and odd images through the command line: rows, errors, what is kept, an index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import onepass
from pipelines.images.decode import decode_rows
from pipelines.images.video import VideoFile
from pipelines.sources.read import read_source
from tests.helpers.commands import here
from tests.helpers.pictures import drawn, encoded
from tests.helpers.videos import write_video
from tests.unit.pipelines.images.test_decode import INPUTS

WHOLE = {"a.jpg", "b.jpe", "c.avif", "d.jp2", "float.tif", "white0.tif", "planes.tif", "bytes.tif"}
DAMAGED = {"half.jpg", "tail.jpg", "scans.jpg"}
GONE = {"cut.png": "damaged image", "header.avif": "damaged image", "dark.tif": "unknown scale"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    picture = drawn(2)
    samples = np.asarray(picture)
    samples = np.concatenate([np.full_like(samples[:1], 255), samples])  # white is in it
    jpeg = encoded(picture, quality=95)
    half, progressive = len(jpeg) // 2, encoded(picture, progressive=True)
    files = {
        "a.jpg": jpeg,
        "b.jpe": jpeg + bytes(99),
        "c.avif": encoded(picture, "AVIF", quality=95),
        "d.jp2": encoded(picture, "JPEG2000"),
        "half.jpg": jpeg[: half // 2] + bytes(half) + jpeg[half // 2 + half :],
        "tail.jpg": jpeg[:half] + bytes(half - 2) + jpeg[-2:],
        "scans.jpg": progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9",
        "cut.png": encoded(picture, "PNG")[:5000],
        "header.avif": encoded(picture, "AVIF")[:400],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    deep = samples.astype(np.uint16) * 257
    grey = deep[..., 0]
    tifffile.imwrite(folder / "float.tif", samples / np.float32(255), photometric="rgb")
    tifffile.imwrite(folder / "white0.tif", 65535 - grey, photometric="miniswhite")
    planes = np.moveaxis(deep, -1, 0)
    tifffile.imwrite(folder / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    Image.fromarray(samples).save(folder / "bytes.tif", compression="tiff_lzw")
    tifffile.imwrite(folder / "dark.tif", grey >> 4)
    return folder


def rows_of(run: onepass.Run) -> dict[str, dict[str, object]]:
    return {row["image"]: row for row in run.to_arrow(run.columns).to_pylist()}


def test_damaged_and_odd_files_are_error_rows(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert here("extract", folder, "--model", "tiny", "--out", out).returncode == 0
    assert here("inspect", out, "--verify").returncode == 0
    run = onepass.open_run(out)
    assert "image_damage" not in run.columns
    rows = rows_of(run)
    assert set(rows) == WHOLE | DAMAGED | set(GONE)
    assert {name for name, row in rows.items() if row["error"] is None} == WHOLE
    for name, kind in GONE.items():
        assert str(rows[name]["error"]).startswith(f"{kind}: ")
        assert str(rows[name]["error"]).endswith(f"[{name}]")
    same = [np.array(rows[name]["embedding"]) for name in ("float.tif", "planes.tif", "bytes.tif")]
    assert np.array_equal(same[0], same[2])
    assert np.array_equal(same[1], same[2])


def test_damaged_files_are_kept_and_said(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("extract", folder, "--model", "tiny", "--out", out, "--damaged", "keep")
    assert here(*command).returncode == 0
    assert here(*command).returncode == 0  # finished
    assert here("inspect", out, "--verify").returncode == 0
    run = onepass.open_run(out)
    rows = rows_of(run)
    assert {name for name, row in rows.items() if row["error"] is None} == WHOLE | DAMAGED
    assert {name for name, row in rows.items() if row["image_damage"] is not None} == DAMAGED
    assert all(np.isfinite(rows[name]["embedding"]).all() for name in DAMAGED)
    refused = here("extract", folder, "--model", "tiny", "--out", out)
    assert refused.returncode == 2  # of another configuration
    index = onepass.build_index(run, tmp_path / "index")
    vector = np.array(rows["a.jpg"]["embedding"], np.float32)
    hits = index.search(vector, k=len(DAMAGED), where="image_damage IS NOT NULL")
    assert {hit["image"] for hit in hits.to_pandas().to_dict("records")} == DAMAGED
    document = json.loads(here("inspect", out, "--json").stdout)
    assert document["config"]["damaged"] == "keep"


def test_a_damaged_image_is_no_query(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(onepass.OnepassWarning, match="damaged image"):
        run = onepass.extract(folder, model="tiny", out=tmp_path / "run")
    index = onepass.build_index(run, tmp_path / "index")
    assert len(index.search_images(folder / "white0.tif", k=3).ids)
    for name in (*DAMAGED, *GONE):
        with pytest.raises(onepass.InputError):
            index.search_images(folder / name, k=3)


@pytest.mark.parametrize("error", [TypeError, IndexError, AssertionError, RuntimeError])
@pytest.mark.parametrize("method", ["__init__", "frame", "close"])
def test_no_error_of_a_video_ends_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], method: str
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise error("made")

    write_video(tmp_path / "clip.mp4", 3)
    (tmp_path / "rows.csv").write_text("image\nclip.mp4#frame=0\nclip.mp4#frame=1\n")
    plan = read_source(str(tmp_path / "rows.csv"))
    monkeypatch.setattr(VideoFile, method, fails)
    errors = decode_rows(plan.table, plan.root, INPUTS)["error"].to_pylist()
    if method == "close":
        assert errors == [None, None]
    else:
        assert all(text.startswith("damaged video: clip.mp4") for text in errors)
