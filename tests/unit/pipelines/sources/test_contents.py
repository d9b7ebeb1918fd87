"""Ids that differ where sources differ, and stay where the images are the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipelines.detections import make_detection_id
from pipelines.sources.contents import END_BYTES, WHOLE_BYTES, hash_file, hash_images, with_hashes
from pipelines.sources.read import read_source
from tests.helpers.pictures import drawn
from tests.helpers.videos import write_video

NAMES = ("DCIM/100/IMG_0001.jpg", "DCIM/100/IMG_0002.jpg", "DCIM/101/IMG_0001.jpg")


def card(folder: Path, first_seed: int, names: tuple[str, ...] = NAMES) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(first_seed + number, width=40, height=30).save(folder / name)
    return folder


def ids_of(source: Path, **options: object) -> list[str]:
    plan = with_hashes(read_source(str(source), **options))  # type: ignore[arg-type]
    return plan.table["detection_id"].to_pylist()


def test_two_cards_with_the_same_names_have_other_ids(tmp_path: Path) -> None:
    first, other = ids_of(card(tmp_path / "a", 0)), ids_of(card(tmp_path / "b", 10))
    assert len({*first, *other}) == 6


def test_ids_stay_when_the_folder_is_moved_or_grows(tmp_path: Path) -> None:
    photos = card(tmp_path / "a", 0)
    before = ids_of(photos)
    shutil.copytree(photos, tmp_path / "elsewhere" / "b", copy_function=shutil.copyfile)
    assert ids_of(tmp_path / "elsewhere" / "b") == before
    card(photos, 20, ("DCIM/100/IMG_0001b.jpg",))
    assert [each for each in ids_of(photos) if each in before] == before
    assert ids_of(photos, limit=2)[0] == before[0]


def test_copies_on_one_card_are_rows_of_their_own(tmp_path: Path) -> None:
    photos = card(tmp_path / "a", 0)
    (photos / "copy").mkdir()
    shutil.copyfile(photos / NAMES[0], photos / "copy" / "IMG_0001.jpg")
    ids = ids_of(photos)
    assert len(set(ids)) == len(ids) == 4


def test_ids_of_boxes_name_the_content(tmp_path: Path) -> None:
    plans = []
    for name, seed in (("a", 0), ("b", 10)):
        folder = card(tmp_path / name, seed)
        (folder / "boxes.csv").write_text(
            f"image,x1,y1,x2,y2\n{NAMES[0]},1,2,3,4\n{NAMES[0]},1,2,3,4\n{NAMES[0]},,,,\nno.jpg,,,,\n"
        )
        plans.append(with_hashes(read_source(str(folder / "boxes.csv"))).table)
    digest = hash_file(tmp_path / "a" / NAMES[0])
    boxed = make_detection_id(NAMES[0], (1, 2, 3, 4), digest)
    assert plans[0]["detection_id"].to_pylist() == [
        *(boxed, f"{boxed}-2", make_detection_id(NAMES[0], None, digest)),
        make_detection_id("no.jpg", None),  # it cannot be read: by its name
    ]
    assert plans[0]["image_hash"].to_pylist() == [digest, digest, digest, None]
    ids = [plan["detection_id"].to_pylist()[:3] for plan in plans]
    assert not set(ids[0]) & set(ids[1])


def test_given_ids_are_kept(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("image,detection_id\na.jpg,7\nb.jpg,8\n")
    assert ids_of(tmp_path / "rows.csv") == ["7", "8"]


def test_frames_have_the_content_of_their_video(tmp_path: Path) -> None:
    for name, count in (("a", 20), ("b", 21)):
        write_video(tmp_path / name / "train" / "clip.mp4", count)
    ids = [ids_of(tmp_path / name, kind="video", frames=4) for name in ("a", "b")]
    assert not set(ids[0]) & set(ids[1])
    video = tmp_path / "a" / "train" / "clip.mp4"
    frames = ["train/clip.mp4#frame=1", "train/clip.mp4#frame=2"]
    assert hash_images(frames, tmp_path / "a") == [hash_file(video)] * 2


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_any_byte_counts_but_for_the_middle_of_large_compressed_files(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    data = bytearray(os.urandom(2 * WHOLE_BYTES))
    file.write_bytes(data)
    before = hash_file(file)
    for place, differs in ((0, True), (len(data) - 1, True), (END_BYTES + 1, name == "a.bmp")):
        data[place] ^= 1
        file.write_bytes(data)
        assert (hash_file(file) != before) == differs
        data[place] ^= 1
    file.write_bytes(data[:-1])
    assert hash_file(file) != before
    small = bytearray(os.urandom(WHOLE_BYTES))
    file.write_bytes(small)
    before = hash_file(file)
    small[WHOLE_BYTES // 2] ^= 1
    file.write_bytes(small)
    assert hash_file(file) != before


def test_what_cannot_be_read_has_no_hash(tmp_path: Path) -> None:
    assert hash_file(tmp_path) is None
    assert hash_file(tmp_path / "missing.jpg") is None
