"""Videos through Ray: frames, errors, clips, the crop over HTTP; and only T frames forwarded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

from common.errors import RunError
from index.build.version import build_index
from pipelines.engines.embed import Embedder
from pipelines.extract import extract
from pipelines.images.pixels import resize
from pipelines.images.video import VideoFile
from tests.helpers.api.world import serving
from tests.helpers.runs import make_config
from tests.helpers.videos import (
    broken_videos,
    full_decode,
    number_of,
    numbered_frame,
    without_beginning,
    write_video,
)
from tracks.link import link_run
from tracks.store import read_tracks

FRAMES = 8
GOOD = ("train/bees/one.mp4", "train/flies/two.mp4", "val/bees/three.avi")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for count, name in zip((20, 33, 9), GOOD, strict=True):
        write_video(folder / name, count, width=96)
    broken_videos(folder / "train" / "flies")
    (folder / "val" / "wasps").mkdir()
    return folder


@pytest.fixture(scope="module")
def done(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    out = tmp_path_factory.mktemp("runs") / "videos"
    outcome = extract(make_config(source=videos, kind="video", frames=FRAMES), out)
    columns = ["sequence", "frame", "image", "split", "category", "embedding", "error"]
    return SimpleNamespace(outcome=outcome, run=outcome.run, out=out,
                           rows=outcome.run.to_arrow(columns).to_pylist())  # fmt: skip


def test_each_frame_has_the_embedding_of_its_pixels(done: SimpleNamespace, videos: Path) -> None:
    facts = done.run.manifest.model
    assert facts.preprocess.input_size == (256, 256)
    assert facts.preprocess.resize == "squash"
    embedder = Embedder.load(facts)
    for name, count in zip(GOOD, (20, 33, 9), strict=True):
        rows = [row for row in done.rows if row["sequence"] == name]
        assert [row["frame"] for row in rows] == list(np.linspace(0, count - 1, 8).astype(int))
        video = VideoFile(videos / name)
        pixels = [resize(video.frame(r["frame"]), facts.preprocess).permute(1, 2, 0) for r in rows]
        expected = embedder._engine(np.stack(pixels)).embedding
        np.testing.assert_allclose([r["embedding"] for r in rows], expected, atol=1e-5)


def test_a_run_holds_the_frames_of_a_full_decode(tmp_path: Path) -> None:
    """Where packets and frames differ as well: B-frames without times, a cut, a mirror, pauses."""
    source = tmp_path / "source"
    write_video(source / "20260102030405.avi", 30, codec="libx264")
    write_video(tmp_path / "whole.ts", 40, codec="libx264")
    without_beginning(tmp_path / "whole.ts", source / "20260102040506.ts")
    mirror = [-(1 << 16), 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    write_video(source / "mirror.mp4", 20, codec="libx264", matrix=mirror)
    write_video(source / "20260102050607.mkv", 20, codec="libx264", ticks=lambda n: n * n)
    run = extract(make_config(source=source, kind="video", frames=0), tmp_path / "run").run
    run.verify()
    rows = run.to_arrow(["sequence", "frame", "timestamp", "embedding", "error"])
    embedder = Embedder.load(run.manifest.model)
    for file in sorted(source.iterdir()):
        here = rows.filter(pc.equal(rows["sequence"], file.name))
        decoded = full_decode(file)
        assert here["frame"].to_pylist() == list(range(len(decoded)))
        assert here["error"].null_count == len(here)
        shown = [pixels[:, ::-1] if file.stem == "mirror" else pixels for _, pixels in decoded]
        pixels = [
            resize(
                torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1),
                run.manifest.model.preprocess,
            ).permute(1, 2, 0)
            for picture in shown
        ]
        expected = embedder._engine(np.stack(pixels)).embedding
        np.testing.assert_allclose(here["embedding"].to_pylist(), expected, atol=1e-5)
        if file.suffix in {".ts", ".mkv"}:
            times = np.array([time for time, _ in decoded], float)
            stamps = here["timestamp"].to_numpy()
            seconds = (stamps - stamps[0]) / np.timedelta64(1, "s")
            np.testing.assert_allclose(seconds, times - times[0], atol=1e-5)


def test_what_cannot_be_used_is_named_and_nothing_else_is_lost(done: SimpleNamespace) -> None:
    counts = done.run.manifest.rows
    assert (counts.planned, counts.written, counts.failed) == (3 * FRAMES + 6, 3 * FRAMES + 6, 6)
    failed = done.run.failed_sequences()
    assert set(failed) == {
        f"train/flies/{name}.mp4" for name in ("empty", "one", "plain", "sound", "text", "web")
    }
    assert failed["train/flies/one.mp4"] == (
        1,
        "short video: 1 frame, fewer than the 8 to sample [train/flies/one.mp4]",
    )
    assert done.outcome.source_notes == ("folders without a clip: val/wasps",)
    assert done.run.manifest.errors == {
        "damaged video": 3, "empty file": 1, "no pictures": 1, "short video": 1
    }  # fmt: skip


def test_the_same_command_is_done_and_another_is_refused(
    done: SimpleNamespace, videos: Path
) -> None:
    same = make_config(source=videos, kind="video", frames=FRAMES)
    assert extract(same, done.out).already_finished
    with pytest.raises(RunError, match=r"frames: then 8, now 4"):
        extract(same.model_copy(update={"frames": 4}), done.out)


def test_frames_are_detections_like_any_other(done: SimpleNamespace, tmp_path: Path) -> None:
    """Index, the picture behind a row, tracks: a frame's name stands for its pixels there too."""
    index = tmp_path / "index"
    build_index([done.out], index)
    row = next(row for row in done.rows if row["sequence"] == GOOD[1] and row["frame"] > 20)
    identity = done.run.to_arrow(["detection_id", "image"]).to_pylist()
    detection = next(r["detection_id"] for r in identity if r["image"] == row["image"])
    with serving(index) as client:
        answer = client.get(f"/v1/detections/{detection}/image")
    assert answer.status_code == httpx.codes.OK
    (tmp_path / "frame.jpg").write_bytes(answer.content)
    shown = np.asarray(Image.open(tmp_path / "frame.jpg"))
    assert shown.shape == numbered_frame(0, width=96).shape
    assert number_of(shown) == row["frame"]

    link_run(done.out)
    lengths = read_tracks(done.out).group_by("sequence").aggregate([("detection_id", "count")])
    assert sorted(lengths.to_pylist(), key=lambda row: str(row["sequence"])) == [
        {"sequence": name, "detection_id_count": FRAMES} for name in GOOD
    ]
