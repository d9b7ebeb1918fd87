"""MOTChallenge files: reading a truth, refusing what is none, writing results, naming files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from tracks.boxes import TrackBoxes
from tracks.motchallenge import file_names, read_truth, result_lines


def written(folder: Path, text: str) -> Path:
    file = folder / "gt.txt"
    file.write_text(text)
    return file


def test_a_truth(tmp_path: Path) -> None:
    text = "2,7,10.5,20,30,40.25,1,1,0.9\n 1, 7, 10, 20, 30, 40\r\n\n1,3,0,0,5,5,0,2,1\n"
    truth, left_out = read_truth(written(tmp_path, text))
    assert truth.frames.tolist() == [2, 1]
    assert truth.ids.tolist() == [7, 7]
    assert truth.boxes.tolist() == [[10.5, 20, 40.5, 60.25], [10, 20, 40, 60]]
    assert left_out == 1
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "gt.txt").write_bytes(text.encode(encoding))
        assert read_truth(tmp_path / "gt.txt")[0].frames.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "no boxes"),
        ("1,1,0,0,5,5,0\n", "1 lines are marked"),
        ("1,1,0,0,5\n", "line 1: '1,1,0,0,5'"),
        ("frame,id,x,y,w,h\n", "line 1"),
        ("1,1,0,0,5,5\n1.5,1,0,0,5,5\n", "line 2"),
        ("1,1,0,0,nan,5\n", "line 1"),
        ("1,1,0,0,5,0\n", "line 1"),
        ("1,1,0,0,5,5\n2,1,0,0,5,5\n1,1,9,9,5,5\n", "id 1 .* in frame 1"),
        (bytes(range(256)).decode("latin1"), "gt.txt"),
    ],
)
def test_what_is_no_truth(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "gt.txt").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=where) as refused:
        read_truth(tmp_path / "gt.txt")
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"gone\.txt"):
        read_truth(tmp_path / "gone.txt")


def test_results_are_read_back_as_they_were(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    corner = random.uniform(0, 500, (30, 2)).round(2)
    boxes = np.column_stack([corner, corner + random.uniform(1, 80, (30, 2)).round(2)])
    given = TrackBoxes(np.repeat(np.arange(10), 3), np.tile([4, 2, 9], 10), boxes)
    again, left_out = read_truth(written(tmp_path, result_lines(given)))
    order = np.lexsort([given.ids, given.frames])
    assert left_out == 0
    assert again.frames.tolist() == given.frames[order].tolist()
    assert again.ids.tolist() == given.ids[order].tolist()
    np.testing.assert_allclose(again.boxes, given.boxes[order], atol=1e-9)


def test_names_of_files() -> None:
    expected = {"night 1": "night 1", "a/b": "a%2Fb", ".": "%2E", "..": "%2E.", "a%2Fb": "a%252Fb"}
    names = file_names([*expected, "", "Ä", "x" * 400, "x" * 401])
    assert {name: names[name] for name in expected} == expected
    assert len(set(names.values())) == len(names) == 9
    assert all(len(f"{name}.txt") < 250 and "/" not in name and name for name in names.values())


def test_names_that_differ_in_case_alone_are_kept_apart() -> None:
    names = file_names(["Cam", "cam", "CAM", "cam~2"])
    assert len({name.casefold() for name in names.values()}) == 4
    assert names["CAM"] == "CAM"
