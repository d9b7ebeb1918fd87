"""MOTChallenge files: reading a truth, refusing what is none, writing results, naming files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trackers.io.mot import load_mot_file

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
    assert (left_out.frames.tolist(), left_out.boxes.tolist()) == ([1], [[0, 0, 5, 5]])
    assert left_out.distractor.tolist() == [True]
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "gt.txt").write_bytes(text.encode(encoding))
        assert read_truth(tmp_path / "gt.txt")[0].frames.tolist() == [2, 1]


PLAIN = "2,7,10.5,20,30,40.25,1,1,0.9\n1,7,10,20,30,40,1,1,1\n1,3,0,0,5,5,0,8,1\n"


@pytest.mark.parametrize(
    ("written_as", "read_by_trackers"),
    [
        pytest.param(PLAIN.encode(), True, id="as MOTChallenge has it"),
        pytest.param(PLAIN.encode("utf-8-sig"), False, id="byte order mark"),
        pytest.param(PLAIN.encode("utf-16"), False, id="UTF-16"),
        pytest.param(PLAIN.replace(",", ", ").encode(), True, id="spaces after commas"),
        pytest.param(PLAIN.replace(",", " , ").encode(), True, id="spaces around commas"),
        pytest.param(PLAIN.replace(",", " ").encode(), True, id="spaces"),
        pytest.param(PLAIN.replace(",", "    ").encode(), True, id="columns of spaces"),
        pytest.param(("  " + PLAIN.replace(",", "  ")).encode(), True, id="spaces before"),
        pytest.param(PLAIN.replace(",", "\t").encode(), True, id="tabs"),
        pytest.param(PLAIN.replace(",", ";").encode(), True, id="semicolons"),
        pytest.param(PLAIN.translate({44: 59, 46: 44}).encode(), False, id="decimal commas"),
        pytest.param(PLAIN.replace("\n", "\r\n").encode(), True, id="CRLF"),
        pytest.param(PLAIN.replace("\n", "\r").encode(), True, id="CR"),
        pytest.param(PLAIN.replace("\n", ",\n").encode(), True, id="a comma at the end"),
        pytest.param(PLAIN.replace("\n", ",,\t \n").encode(), False, id="more at the end"),
        pytest.param(PLAIN.replace(",7,", ",7.0,").encode(), True, id="ids as floats"),
        pytest.param(PLAIN.replace("2,7", "2.0,7e0").encode(), True, id="frames as floats"),
        pytest.param(PLAIN.replace("\n", "\n\n").encode(), True, id="empty lines"),
        pytest.param(f"frame,id,x,y,w,h,c,k,v\n{PLAIN}".encode(), False, id="a header"),
        pytest.param(
            f"Frame, Track ID, bb_left, bb_top, bb_width, bb_height\n{PLAIN}".encode(),
            False,
            id="a header of other words",
        ),
        pytest.param(
            f"# frame id left top width height\n{PLAIN}".replace(",", " ").encode(),
            False,
            id="NumPy's header",
        ),
        pytest.param(PLAIN.replace(",1,1,0.9", ",1,moth,").encode(), False, id="a class by name"),
    ],
)
def test_a_truth_as_tools_write_it(
    tmp_path: Path, written_as: bytes, read_by_trackers: bool
) -> None:
    file = tmp_path / "gt.txt"
    file.write_bytes(written_as)
    truth, unjudged = read_truth(file)
    assert truth.frames.tolist() == [2, 1]
    assert truth.ids.tolist() == [7, 7]
    assert truth.boxes.tolist() == [[10.5, 20, 40.5, 60.25], [10, 20, 40, 60]]
    assert unjudged.frames.tolist() == [1]
    assert unjudged.boxes.tolist() == [[0, 0, 5, 5]]
    assert unjudged.distractor.tolist() == [True]
    try:
        frames = load_mot_file(file)
    except ValueError:
        assert not read_by_trackers
        return
    assert read_by_trackers
    rows = [
        (frame, *row)
        for frame, data in frames.items()
        for row in zip(data.ids.tolist(), data.boxes.tolist(), strict=True)
        if data.confidences[row[0] == data.ids] != 0
    ]
    assert [row[0] for row in rows] == truth.frames.tolist()
    assert [row[1] for row in rows] == truth.ids.tolist()
    corners = np.array([row[2] for row in rows])
    np.testing.assert_array_equal(corners[:, :2], truth.boxes[:, :2])
    np.testing.assert_array_equal(corners[:, 2:], truth.boxes[:, 2:] - truth.boxes[:, :2])


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "no boxes"),
        ("1,1,0,0,5,5,0\n", "1 lines are marked"),
        ("1,1,0,0,5\n", "line 1: '1,1,0,0,5'"),
        ("frame,id,x,y,w,h\n", "no boxes"),
        ("frame,id,x1,y1,x2,y2\n1,1,0,0,5,5\n", "line 1 is a header"),
        ("id,frame,x,y,w,h\n1,1,0,0,5,5\n", "line 1 is a header"),
        ("# MOT truth of night 3\n1,1,0,0,5,5\n", "line 1 is a header"),
        ("1,1,0,0,5,5\nframe,id,x,y,w,h\n", "line 2: 'frame,id,x"),
        ("1,1,,0,0,5,5\n", "line 1: '1,1,,0,0,5,5'"),  # no column may be skipped
        ("1,,0,0,5,5,5\n", "line 1: '1,,0,0,5,5,5'"),
        ("1 1 0,5 0,5 5,5 5,5\n", "line 1: "),  # commas both apart and within
        ('1,"1","0,5",0,5,5\n', "line 1: "),
        ("1,18014398509481985,0,0,5,5\n", "line 1"),  # as a float it is another id
        ("1,1,0,0,5,5,yes\n", "line 1"),
        ("1,-1,0,0,5,5,0.9\n1,-1,9,9,5,5,0.8\n", "id -1 .* file of detections"),
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
    assert len(left_out) == 0
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
