"""From people's file names to tracks: three individuals are three tracks, however frames are named."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.updates import check_whole
from tracks.store import read_tracks

FRAMES, WALKERS = 12, 3
BEGAN = datetime(2023, 10, 28, 23, 50)
EXACT = (*("--model", "tiny", "--precision", "fp32", "--engine", "eager"), "--executor", "local")


def box(walker: int, frame: int) -> tuple[int, int, int, int]:
    """Each individual walks along a row of its own, far within a few frames."""
    left, top = 5 + 18 * frame, 10 + 60 * walker
    return left, top, left + 30, top + 30


def write_frame(file: Path, frame: int, taken: datetime | None = None) -> None:
    pixels = np.full((200, 260, 3), 128, np.uint8)
    for walker in range(WALKERS):
        x1, y1, x2, y2 = box(walker, frame)
        pixels[y1:y2, x1:x2] = np.eye(3, dtype=np.uint8)[walker] * 255
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken.strftime("%Y:%m:%d %H:%M:%S")
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, exif=exif, quality=95)


def write_manifest(
    folder: Path, names: list[str], times: list[str] | None = None, *, exif: bool = False
) -> Path:
    """Boxes of all individuals in every frame, the frames listed backwards."""
    lines = ["image,x1,y1,x2,y2,walker" + (",timestamp" if times else "")]
    for frame in reversed(range(FRAMES)):
        taken = BEGAN + timedelta(minutes=frame) if exif else None
        write_frame(folder / names[frame], frame, taken)
        for walker in range(WALKERS):
            row = [names[frame], *box(walker, frame), f"walker {walker}"]
            lines.append(",".join(map(str, [*row, times[frame]] if times else row)))
    (folder / "boxes.csv").write_text("\n".join(lines))
    return folder / "boxes.csv"


def ran(*command: object) -> tuple[dict[str, object], str]:
    done = here(*command, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def wrapped() -> list[str]:
    """DSC_9994 … DSC_9999, DSC_0001 … DSC_0006, as a camera counts."""
    return [f"DSC_{number:04}.JPG" for number in (*range(9994, 10_000), *range(1, 7))]


def clock(step: int = 60) -> list[datetime]:
    return [BEGAN + timedelta(seconds=step * frame) for frame in range(FRAMES)]


CASES = {
    "numbers": ([f"{frame + 1}.jpg" for frame in range(FRAMES)], None, False, 0),
    "numbers in names": (
        [f"trap {frame + 1} of 12.jpg" for frame in range(FRAMES)],
        None,
        False,
        0,
    ),
    "EXIF": (wrapped(), None, True, 0),
    "column": (wrapped(), [f"{time:%Y-%m-%d %H:%M:%S}" for time in clock()], False, 0),
    "column as EXIF writes": (
        wrapped(),
        [f"{time:%Y:%m:%d %H:%M:%S}" for time in clock()],
        False,
        1,
    ),
    "column of numbers": (wrapped(), [f"{time:%Y%m%d%H%M%S}" for time in clock()], False, 1),
    "fourteen digits": (
        [
            f"{number:02}-{time:%Y%m%d%H%M%S}.jpg"
            for number, time in zip([7, 3, 12, 1, 9, 2, 11, 4, 8, 6, 10, 5], clock(), strict=True)
        ],
        *(None, False, 0),
    ),
    "the repeated hour": (
        [f"{frame + 1}.jpg" for frame in range(FRAMES)],
        [
            f"2023-10-29 {hour}:{minute}0"
            for hour, minute in (
                *(("01", 5), ("02", 0), ("02", 1), ("02", 2), ("02", 4), ("02", 5)),
                *(("02", 0), ("02", 1), ("02", 2), ("02", 4), ("02", 5), ("03", 0)),
            )
        ],
        *(False, 1),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_three_individuals_are_three_tracks(case: str, tmp_path: Path) -> None:
    names, times, exif, notes = CASES[case]
    source = write_manifest(tmp_path / "night", names, times, exif=exif)
    run = tmp_path / "run"
    answer, _ = ran("extract", source, *EXACT, "--out", run)
    assert len(answer["source_notes"]) == notes  # type: ignore[arg-type]
    ran("inspect", run, "--verify")
    check_whole(Run.open(run))
    rows = Run.open(run).to_pandas(["detection_id", "image", "frame", "walker"])
    expected = {name: frame for frame, name in enumerate(names)}
    assert rows["frame"].to_list() == [expected[name] for name in rows["image"]]
    linked, _ = ran("link", run, "--executor", "local")
    assert linked["tracks"] == WALKERS
    tracks = read_tracks(run).to_pandas().merge(rows, on="detection_id")
    assert tracks.groupby("track_id")["walker"].nunique().to_list() == [1] * WALKERS
    assert tracks.groupby("track_id").size().to_list() == [FRAMES] * WALKERS


def test_photos_of_a_folder_are_in_the_order_they_were_taken(tmp_path: Path) -> None:
    """By EXIF time, which is read before frames are numbered; said where some have none."""
    names = wrapped()
    for frame, name in enumerate(names):
        taken = None if frame == 3 else BEGAN + timedelta(minutes=frame)
        write_frame(tmp_path / "card" / name, frame, taken)
    answer, _ = ran("extract", tmp_path / "card", *EXACT, "--out", tmp_path / "run")
    rows = Run.open(tmp_path / "run").to_pandas(["image", "frame", "timestamp"])
    assert dict(zip(rows["image"], rows["frame"], strict=True)) == {
        name: frame for frame, name in enumerate(names)
    }
    assert rows["timestamp"].isna().sum() == 1
    assert len(answer["source_notes"]) == 1  # type: ignore[arg-type]


def test_frames_that_are_left_out_keep_their_numbers(tmp_path: Path) -> None:
    for frame in range(FRAMES):
        taken = BEGAN - timedelta(minutes=frame)  # against the order of names
        write_frame(tmp_path / "card" / f"{frame + 1}.jpg", frame, taken)
    ran("extract", tmp_path / "card", *EXACT, "--limit", 3, "--out", tmp_path / "run")
    rows = Run.open(tmp_path / "run").to_pandas(["image", "frame"])
    numbers = sorted(int(name.removesuffix(".jpg")) - 1 for name in rows["image"])
    assert len(numbers) == 3
    assert rows["frame"].to_list() == sorted(numbers, reverse=True)


def test_a_run_in_the_order_of_earlier_versions_goes_on_and_is_renumbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for frame in range(FRAMES):
        write_frame(tmp_path / "photos" / f"{frame + 1}.jpg", frame)
    command = ("extract", tmp_path / "photos", *EXACT, "--out", tmp_path / "run")
    with monkeypatch.context() as earlier:  # as names were sorted then
        for module in ("pipelines.frame_numbers", "pipelines.sources.folder"):
            earlier.setattr(f"{module}.natural", lambda name: name)
        ran(*command)
    old = Run.open(tmp_path / "run").to_pandas(["image", "frame"])
    assert old["image"][1] == "10.jpg"
    answer, _ = ran(*command)
    assert answer["already_finished"]
    assert len(answer["source_notes"]) == 1  # type: ignore[arg-type]
    answer, _ = ran(*command, "--update")
    ran("inspect", tmp_path / "run", "--verify")
    rows = Run.open(tmp_path / "run").to_pandas(["image", "frame"])
    assert [f"{frame + 1}.jpg" for frame in rows["frame"]] == rows["image"].to_list()
    answer, _ = ran(*command)
    assert answer["source_notes"] == []
    (tmp_path / "photos" / "13.jpg").write_bytes((tmp_path / "photos" / "1.jpg").read_bytes())
    assert here(*command).returncode == 2  # other rows


def test_what_was_left_out_shows_in_the_exit_code(tmp_path: Path) -> None:
    write_frame(tmp_path / "photos" / "1.jpg", 0)
    name = os.fsencode(tmp_path / "photos") + b"/caf\xe9.jpg"
    Path(os.fsdecode(name)).write_bytes(b"")
    command = ("extract", tmp_path / "photos", *EXACT, "--out", tmp_path / "run")
    for _ in range(2):
        done = here(*command)
        assert done.returncode == 1
        assert r"caf\xe9.jpg" in done.stderr
    assert here("inspect", tmp_path / "run", "--verify").returncode == 0


def test_own_columns_may_have_any_name(tmp_path: Path) -> None:
    """Those of tables between the stages as well."""
    names = ("pixels", "gate_pixels", "file", "file_row", "link_score", "clip", "number")
    write_frame(tmp_path / "1.jpg", 0)
    write_frame(tmp_path / "2.jpg", 1)
    lines = [
        f"image,{','.join(names)},site",
        *(f"{n}.jpg,{',1' * 7},Größe".replace(",,", ",") for n in (1, 2)),
    ]
    (tmp_path / "rows.csv").write_bytes("\n".join(lines).encode("latin-1"))
    run, index = tmp_path / "run", tmp_path / "index"
    gate = ("--gate", "tiny", "--gate-label", "tiny 0", "--gate-threshold", 0, "--features", "map")
    ran("extract", tmp_path / "rows.csv", *EXACT, *gate, "--hdf5", "--out", run)
    table = Run.open(run).to_arrow([*names, "site"])
    assert table.to_pydict() == {name: [1, 1] for name in names} | {"site": ["Größe"] * 2}
    assert table["pixels"].type == pa.int64()
    ran("inspect", run, "--verify")
    for column in ("file", "link_score"):
        ran("link", run, "--score-column", column, "--executor", "local")
    ran("index", "build", run, "--out", index)
    answer, _ = ran("query", index, "--image", tmp_path / "1.jpg", "--where", "pixels = 1")
    assert len(answer["hits"]) == 2  # type: ignore[arg-type]
