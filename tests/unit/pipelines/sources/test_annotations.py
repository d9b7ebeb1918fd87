"""Files of boxes of other tools as sources: their rows, and what is said of what they leave out."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from common.errors import SourceError
from common.moved import read_pairs
from pipelines.detections import BOX
from pipelines.sources.boxes import BoxOptions
from pipelines.sources.plan import Plan
from pipelines.sources.read import read_source
from tests.helpers.annotations import coco, cvat, label_studio, megadetector, rectangle
from tests.helpers.pictures import drawn
from tests.helpers.videos import write_video

SIZE = (80, 40)
PIXELS = (8.0, 10.0, 32.0, 30.0)  # the box of most files, as corners
XYWH = [8, 10, 24, 20]
SHARES = [0.1, 0.25, 0.3, 0.5]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        drawn(0, width=SIZE[0], height=SIZE[1]).save(tmp_path / name)
    return tmp_path


def turned(file: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    drawn(0, width=SIZE[0], height=SIZE[1]).save(file, exif=exif)


def rows_of(source: Path, **options: Any) -> list[dict[str, Any]]:
    return read_source(str(source), **options).table.to_pylist()


def box(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[side] and pytest.approx(row[side], abs=1e-4) for side in BOX)


def kinds(plan: Plan) -> list[str | None]:
    return [error and error.partition(":")[0] for error in plan.table["error"].to_pylist()]


class TestMegaDetector:
    def test_detections_are_rows_and_failures_error_rows(self, folder: Path) -> None:
        source = megadetector(
            folder / "md.json",
            [
                {"file": "a.jpg", "detections": [{"category": "1", "conf": 0.9, "bbox": SHARES}]},
                {"file": "b.jpg", "detections": []},
                {"file": "c.jpg", "failure": "image access", "detections": None},
                {
                    "file": "gone.jpg",
                    "detections": [{"category": "2", "conf": 0.1, "bbox": SHARES}],
                },
            ],
        )
        plan = read_source(str(source))
        good, failed, gone = plan.table.to_pylist()
        assert box(good) == PIXELS
        assert (good["source_label"], good["detector_score"]) == ("animal", 0.9)
        assert kinds(plan) == [None, "detector failed", "missing file"]
        assert (failed["image"], gone["source_label"]) == ("c.jpg", "person")
        assert len(plan.notes) == 3  # without detections, failed, below the threshold

    def test_boxes_are_of_the_upright_image(self, folder: Path) -> None:
        turned(folder / "a.jpg", 6)
        source = megadetector(
            folder / "md.json", [{"file": "a.jpg", "detections": [{"conf": 1, "bbox": SHARES}]}]
        )
        assert box(rows_of(source)[0]) == (4, 20, 16, 60)  # of 40 x 80

    def test_frames_of_videos_and_names_of_windows(self, folder: Path) -> None:
        write_video(folder / "clip.mp4", 5)
        (folder / "sub").mkdir()
        drawn(1, width=80, height=40).save(folder / "sub" / "d.jpg")
        frame = {"conf": 0.5, "bbox": SHARES, "frame_number": 3}
        source = megadetector(
            folder / "md.json",
            [
                {"file": "clip.mp4", "detections": [frame]},
                {"file": "sub\\d.jpg", "detections": [{"conf": 0.5, "bbox": SHARES}]},
            ],
        )
        video, windows = rows_of(source)
        assert (video["image"], windows["image"]) == ("clip.mp4#frame=3", "sub/d.jpg")
        assert box(video) == (6.4, 16, 25.6, 48)

    def test_what_is_no_number_or_name_is_no_traceback(self, folder: Path) -> None:
        good = {"category": 7, "conf": "0.5", "bbox": SHARES}
        odd = [good | {"frame_number": value} for value in (1e300, -1, "x", 2.5)]
        source = megadetector(folder / "md.json", [{"file": "a.jpg", "detections": [good, *odd]}])
        plan = read_source(str(source))
        assert kinds(plan) == [None, *["missing frame"] * 4]
        assert plan.table["source_label"].to_pylist() == ["7"] * 5  # a category without a name

    def test_a_box_that_is_none_is_an_error_row(self, folder: Path) -> None:
        bad = [[1, 2, 3], ["a", 0, 0, 0], None, [0.1, 0.2, 0.3, float("nan")]]
        source = megadetector(
            folder / "md.json",
            [{"file": "a.jpg", "detections": [{"conf": 1, "bbox": each} for each in bad]}],
        )
        assert kinds(read_source(str(source))) == [
            *("incomplete box", "box not numbers", "incomplete box", "box not finite")
        ]


class TestCoco:
    def test_boxes_and_categories(self, folder: Path) -> None:
        images = [
            {"id": n, "file_name": f"{c}.jpg", "width": 80, "height": 40}
            for n, c in enumerate("abc")
        ]
        source = coco(
            folder / "coco.json",
            images,
            [
                {
                    "id": 1,
                    "image_id": 2,
                    "category_id": 1,
                    "bbox": XYWH,
                    "score": 0.5,
                    "track_id": 7,
                },
                {"id": 2, "image_id": 0, "category_id": 9, "bbox": [1, 2, 3]},
                {"id": 3, "image_id": 5, "category_id": 1, "bbox": XYWH},
                {"id": 4, "image_id": 0, "category_id": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]},
            ],
        )
        plan = read_source(str(source))
        rows = {row["image"]: row for row in plan.table.to_pylist()}
        assert box(rows["c.jpg"]) == PIXELS
        assert rows["c.jpg"]["source_label"] == "moth"
        assert (rows["c.jpg"]["detector_score"], rows["c.jpg"]["source_track"]) == (0.5, "7")
        assert kinds(plan) == [None, "incomplete box", "incomplete box", "no image"]
        assert len(plan.notes) == 1  # b.jpg

    def test_camera_traps(self, folder: Path) -> None:
        images = [
            {
                "id": name,
                "file_name": f"{name}.jpg",
                "seq_id": "s1",
                "frame_num": number,
                "datetime": f"2020-05-30 04:57:3{number}",
            }
            for number, name in enumerate("abc", start=1)
        ]
        labels = [
            {"id": "1", "image_id": "a", "category_id": 1},
            {"id": "2", "image_id": "b", "category_id": 2},
            {"id": "3", "image_id": "b", "category_id": 1},
            {"id": "4", "image_id": "c", "category_id": 1, "bbox": XYWH},
        ]
        plan = read_source(str(coco(folder / "cct.json", images, labels)))
        rows = {row["image"]: row for row in plan.table.to_pylist()}
        assert {name: row["source_label"] for name, row in rows.items()} == {
            "a.jpg": "moth",
            "b.jpg": "empty; moth",
            "c.jpg": "moth",
        }
        assert box(rows["a.jpg"]) == (None,) * 4
        assert box(rows["c.jpg"]) == PIXELS
        assert {row["sequence"] for row in rows.values()} == {"s1"}
        assert [rows[f"{name}.jpg"]["frame"] for name in "abc"] == [1, 2, 3]
        assert rows["c.jpg"]["timestamp"] == datetime(2020, 5, 30, 4, 57, 33)

    @pytest.mark.parametrize(
        ("orientation", "size", "expected"),
        [
            (6, (80, 40), (10, 8, 30, 32)),  # the file's size is the stored one
            (6, (40, 80), PIXELS),
            (3, (80, 40), PIXELS),  # cannot be told: upright
            (1, (80, 40), PIXELS),
        ],
    )
    def test_width_and_height_say_the_frame(
        self, folder: Path, orientation: int, size: tuple[int, int], expected: tuple[float, ...]
    ) -> None:
        turned(folder / "a.jpg", orientation)
        image = {"id": 1, "file_name": "a.jpg", "width": size[0], "height": size[1]}
        source = coco(folder / "c.json", [image], [{"image_id": 1, "bbox": XYWH}])
        plan = read_source(str(source))
        assert box(plan.table.to_pylist()[0]) == expected
        assert len(plan.notes) == (orientation != 1)
        said = read_source(str(source), boxes=BoxOptions(frame="stored"))
        assert (
            box(said.table.to_pylist()[0])
            == {
                1: PIXELS,
                3: (48, 10, 72, 30),
                6: (10, 8, 30, 32),
            }[orientation]
        )

    def test_other_images_and_the_boxes_themselves_tell_the_frame(self, folder: Path) -> None:
        for name, orientation in {"a.jpg": 6, "b.jpg": 3}.items():
            turned(folder / name, orientation)
        images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
        boxes = [{"image_id": 1, "bbox": [50, 10, 24, 20]}, {"image_id": 2, "bbox": XYWH}]
        first, second = rows_of(coco(folder / "c.json", images, boxes))
        assert box(first) == (10, 50, 30, 74)  # outside of the upright image of 40 x 80
        assert box(second) == (48, 10, 72, 30)  # as the other one

    def test_boxes_of_a_smaller_copy_are_error_rows(self, folder: Path) -> None:
        image = {"id": 1, "file_name": "a.jpg", "width": 800, "height": 400}
        source = coco(folder / "c.json", [image], [{"image_id": 1, "bbox": XYWH}])
        assert kinds(read_source(str(source))) == ["image of another size"]


class TestLabelStudio:
    def test_percent_rotation_and_several_annotations(self, folder: Path) -> None:
        percent = tuple(100 * share for share in SHARES)
        old = {"id": 1, "updated_at": "2024-01-01", "result": [rectangle((0, 0, 9, 9), SIZE)]}
        new = {
            "id": 2,
            "updated_at": "2024-01-02",
            "result": [
                rectangle(percent, SIZE),
                # By 90 degrees about its left top corner at 40, 10: 8 wide and 20 high before.
                rectangle((50, 25, 10, 50), SIZE, rotation=90),
                {"type": "polygonlabels", "value": {"points": [[1, 2]]}},
            ],
        }
        cancelled = {"id": 3, "was_cancelled": True, "updated_at": "2025", "result": []}
        tasks = [
            {"id": 1, "data": {"image": "a.jpg"}, "annotations": [new, old, cancelled]},
            {"id": 2, "data": {"image": "b.jpg"}, "annotations": []},
        ]
        plan = read_source(str(label_studio(folder / "ls.json", tasks)))
        first, second = plan.table.to_pylist()
        assert (box(first), first["source_label"]) == (PIXELS, "moth")
        assert box(second) == (20, 10, 40, 18)
        assert len(plan.notes) == 4  # without rectangles, several, rotated, polygons

    def test_names_of_uploads_and_local_files(self, folder: Path) -> None:
        (folder / "sub").mkdir()
        drawn(1, width=80, height=40).save(folder / "sub" / "d e.jpg")
        names = [
            *("/data/upload/3/0a1b2c3d-a.jpg", "/data/local-files/?d=sub/d%20e.jpg"),
            *("http://localhost:8080/data/upload/3/0a1b2c3d-b.jpg", "c.jpg"),
        ]
        result = [rectangle((10, 25, 30, 50), SIZE)]
        tasks = [{"data": {"image": name}, "annotations": [{"result": result}]} for name in names]
        rows = rows_of(label_studio(folder / "ls.json", tasks))
        assert [row["image"] for row in rows] == ["a.jpg", "sub/d e.jpg", "b.jpg", "c.jpg"]
        assert {row["error"] for row in rows} == {None}

    @pytest.mark.parametrize("size", [(40, 80), (80, 40)])
    def test_the_frame_of_a_rotated_image(self, folder: Path, size: tuple[int, int]) -> None:
        turned(folder / "a.jpg", 6)
        result = [rectangle((10, 25, 30, 50), size)]
        tasks = [{"data": {"image": "a.jpg"}, "annotations": [{"result": result}]}]
        (row,) = rows_of(label_studio(folder / "ls.json", tasks))
        assert box(row) == ((4, 20, 16, 60) if size == (40, 80) else (10, 8, 30, 32))


class TestCvat:
    BOX = '<box label="moth" xtl="8" ytl="10" xbr="32" ybr="30"'

    def test_images(self, folder: Path) -> None:
        source = cvat(
            folder / "annotations.xml",
            f'<image id="0" name="a.jpg" width="80" height="40">{self.BOX}/>'
            f'{self.BOX} rotation="90"/><polygon label="m" points="1,2;3,4"/></image>'
            '<image id="1" name="b.jpg" width="80" height="40"/>'
            '<image id="2" name="c.jpg" width="80" height="40"><tag label="empty"/></image>',
        )
        plan = read_source(str(source))
        first, rotated, whole = plan.table.to_pylist()
        assert (box(first), first["source_label"]) == (PIXELS, "moth")
        assert box(rotated) == (10, 8, 30, 32)
        assert (box(whole), whole["source_label"]) == ((None,) * 4, "empty")
        assert len(plan.notes) == 4  # empty, whole, polygon, rotated

    def test_tracks_of_a_video(self, folder: Path) -> None:
        write_video(folder / "clip.mp4", 5)
        shapes = "".join(
            f'{self.BOX} frame="{frame}" outside="{int(frame == 4)}"/>' for frame in (2, 3, 4)
        )
        tracks = f'<track id="7" label="moth">{shapes}</track>'
        meta = "<meta><task><source>clip.mp4</source></task></meta>"
        plan = read_source(str(cvat(folder / "annotations.xml", meta + tracks)))
        assert [
            (row["image"], row["frame"], row["source_track"]) for row in plan.table.to_pylist()
        ] == [*(("clip.mp4#frame=2", 2, "7"), ("clip.mp4#frame=3", 3, "7"))]
        assert len(plan.notes) == 1  # one is outside
        (folder / "clip.mp4").unlink()
        with pytest.raises(SourceError, match="images="):
            read_source(str(folder / "annotations.xml"))

    @pytest.mark.parametrize(
        "text",
        [
            "<annotations><image></annotations>",
            "<html><image name='a.jpg'/></html>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations><image name='&b;'/></annotations>",
        ],
    )
    def test_other_xml_is_refused(self, folder: Path, text: str) -> None:
        (folder / "a.xml").write_text(text)
        with pytest.raises(SourceError):
            read_source(str(folder / "a.xml"))


class TestMot:
    def sequence(self, root: Path, first: int = 1) -> Path:
        for number in range(first, first + 3):
            (root / "img1").mkdir(parents=True, exist_ok=True)
            drawn(number, width=80, height=40).save(root / "img1" / f"{number:06d}.jpg")
        (root / "gt").mkdir()
        (root / "det").mkdir()
        return root

    @pytest.mark.parametrize("first", [0, 1])
    def test_detections(self, tmp_path: Path, first: int) -> None:
        root = self.sequence(tmp_path / "night-1", first)
        (root / "det" / "det.txt").write_text(
            "1,-1,8,10,24,20,0.75,-1,-1,-1\n3,-1,8.0,10,24,20,0.5,-1,-1,-1\n9,-1,8,10,24,20,1,-1,-1,-1\n"
        )
        plan = read_source(str(root / "det" / "det.txt"))
        rows = plan.table.to_pylist()
        assert [row["image"] for row in rows[:2]] == [
            f"img1/{number:06d}.jpg" for number in (first, first + 2)
        ]
        assert [row["frame"] for row in rows] == [0, 2, 8]
        assert [row["detector_score"] for row in rows] == [0.75, 0.5, 1]
        assert {row["sequence"] for row in rows} == {"night-1"}
        assert "source_track" not in rows[0]
        assert box(rows[0]) == PIXELS
        assert kinds(plan) == [None, None, "missing frame"]
        assert len(plan.notes) == 1  # which image is frame 1

    def test_truth_with_a_sequence_info(self, tmp_path: Path) -> None:
        root = self.sequence(tmp_path / "x")
        (root / "img1").rename(root / "frames")
        (root / "seqinfo.ini").write_text("[Sequence]\nname=TUD\nimDir=frames\nseqLength=3\n")
        (root / "gt" / "gt.txt").write_text("1,4,8,10,24,20,1,1,0.9\n2,4,8,10,24,20,0,1,0.9\n")
        plan = read_source(str(root / "gt" / "gt.txt"))
        (row,) = plan.table.to_pylist()
        assert (row["image"], row["sequence"]) == ("frames/000001.jpg", "TUD")
        assert (row["source_track"], row["source_label"]) == ("4", "1")
        assert "detector_score" not in row
        assert len(plan.notes) == 2  # one is not to be judged

    def test_frames_of_a_video_beside_it_or_where_it_is_said(self, tmp_path: Path) -> None:
        write_video(tmp_path / "clip.mp4", 3)
        (tmp_path / "gt.txt").write_text("\ufeff2 1 8 10 24 20 1 -1 -1 -1\n")
        (row,) = rows_of(tmp_path / "gt.txt")
        assert (row["image"], row["frame"]) == ("clip.mp4#frame=1", 1)
        (tmp_path / "clip.mp4").unlink()
        with pytest.raises(SourceError, match="images="):
            rows_of(tmp_path / "gt.txt")
        elsewhere = self.sequence(tmp_path / "elsewhere")
        pairs = read_pairs([f"{tmp_path}/img1={elsewhere}/img1"])
        plan = read_source(str(tmp_path / "gt.txt"), pairs=pairs)
        (name,) = plan.table["image"].to_pylist()
        assert plan.images.path(name) == elsewhere / "img1" / "000002.jpg"

    @pytest.mark.parametrize(
        "line", ["0,1,8,10,24,20", "1,1,8,10,24", "1.5,1,8,10,24,20", "1e99,1,8,1,2,2", "a,b", "'"]
    )
    def test_other_text_is_refused(self, tmp_path: Path, line: str) -> None:
        root = self.sequence(tmp_path / "x")
        (root / "gt" / "gt.txt").write_text(f"1,4,8,10,24,20,1,1,0.9\n{line}\n")
        with pytest.raises(SourceError):
            rows_of(root / "gt" / "gt.txt")


def test_camtrap_dp(folder: Path) -> None:
    resources = [{"name": name, "path": f"{name}.csv"} for name in ("media", "observations")]
    (folder / "datapackage.json").write_text(
        json.dumps({"profile": "https://x/camtrap-dp/1.0/p.json", "resources": resources})
    )
    (folder / "media.csv").write_text(
        "mediaID,timestamp,filePath,fileName\nm1,2020-05-30T04:57:37Z,a.jpg,a.jpg\n"
        "m2,2020-05-30T04:57:38Z,https://host/file,b.jpg\nm3,,c.jpg,c.jpg\n"
    )
    (folder / "observations.csv").write_text(
        "deploymentID,mediaID,observationType,scientificName,individualID,bboxX,bboxY,bboxWidth,"
        "bboxHeight\nd1,m1,animal,Felis catus,cat 1,0.1,0.25,0.3,0.5\nd1,m2,blank,,,,,,\nd1,,animal,Pan,,,,,\n"
    )
    plan = read_source(str(folder / "datapackage.json"))
    first, second = plan.table.to_pylist()
    assert (box(first), first["source_label"], first["source_track"]) == (
        *(PIXELS, "Felis catus", "cat 1"),
    )
    assert (second["image"], box(second), second["source_label"]) == ("b.jpg", (None,) * 4, "blank")
    assert (first["sequence"], first["timestamp"]) == ("d1", datetime(2020, 5, 30, 4, 57, 37))
    assert len(plan.notes) == 2


def test_where_no_image_is_there_it_says_where_to_say_it(folder: Path, tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    exports.mkdir()
    source = coco(
        exports / "coco.json", [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "bbox": XYWH}]
    )
    with pytest.raises(SourceError, match="images="):
        read_source(str(source))
    (row,) = rows_of(source, pairs=read_pairs([f"{exports}={folder}"]))
    assert (row["error"], box(row)) == (None, PIXELS)


@pytest.mark.parametrize(
    "document",
    [
        {"shapes": [], "imagePath": "a.jpg", "version": "Mothbot"},
        [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
        [{"image": "a.jpg", "label": [{"x": 1}]}],
        [{"image": "a.jpg", "x1": 1, "y1": 2, "x2": 3, "y2": 4}],
        {"images": [], "annotations": [], "categories": []},
        {"images": [{"id": 1}], "annotations": []},
        {"images": [1], "annotations": [2]},
        {"images": [{"file": "a.jpg", "detections": [3]}]},
        [],
        {},
        3,
    ],
)
def test_other_json_is_refused_in_one_line(folder: Path, document: Any) -> None:
    (folder / "x.json").write_text(json.dumps(document))
    with pytest.raises(SourceError) as raised:
        read_source(str(folder / "x.json"))
    assert "\n" not in str(raised.value)


def test_options_that_the_file_answers_itself_are_refused(folder: Path) -> None:
    source = coco(
        folder / "c.json", [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "bbox": XYWH}]
    )
    for options in (BoxOptions(layout="xyxy"), BoxOptions(units="normalised")):
        with pytest.raises(SourceError, match="boxes"):
            read_source(str(source), boxes=options)
    (folder / "broken.json").write_text("{")
    with pytest.raises(SourceError):
        read_source(str(folder / "broken.json"))
