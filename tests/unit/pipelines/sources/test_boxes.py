"""Boxes of a table under every name and layout that people write, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.errors import SourceError
from pipelines.detections import BOX
from pipelines.sources.boxes import BoxOptions, read_boxes
from pipelines.sources.read import read_source

# One box, 10 20 40 60, in every layout.
XYXY, XYWH, CXCYWH = (10.0, 20.0, 40.0, 60.0), (10.0, 20.0, 30.0, 40.0), (25.0, 40.0, 30.0, 40.0)


def table_of(names: str, values: tuple[Any, ...], **more: Any) -> pa.Table:
    columns = dict(zip(names.split(","), ([value] for value in values), strict=True))
    return pa.table({"image": ["a.jpg"], **columns, **{k: [v] for k, v in more.items()}})


def boxes_of(table: pa.Table, *options: Any) -> list[tuple[Any, ...]]:
    read, _, _ = read_boxes(table, BoxOptions(*options), "rows.csv")
    return list(zip(*(read[name].to_pylist() for name in BOX), strict=True))


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("x1,y1,x2,y2", XYXY),
        ("xmin,ymin,xmax,ymax", XYXY),
        ("XMin,YMin,XMax,YMax", XYXY),
        ("X1,Y1,X2,Y2", XYXY),
        (" x1, y1, x2, y2", XYXY),
        ("x_min,y_min,x_max,y_max", XYXY),
        ("min_x,min_y,max_x,max_y", XYXY),
        ("x0,y0,x1,y1", XYXY),
        ("left,top,right,bottom", XYXY),
        ("xtl,ytl,xbr,ybr", XYXY),
        ("bbox_x1,bbox_y1,bbox_x2,bbox_y2", XYXY),
        ("bboxXmin,bboxYmin,bboxXmax,bboxYmax", XYXY),
        ("detection_xmin,detection_ymin,detection_xmax,detection_ymax", XYXY),
        ("box.x1,box.y1,box.x2,box.y2", XYXY),
        ("x1_px,y1_px,x2_px,y2_px", XYXY),
        ("top_left_x,top_left_y,bottom_right_x,bottom_right_y", XYXY),
        ("x,y,w,h", XYWH),
        ("x,y,width,height", XYWH),
        ("left,top,width,height", XYWH),
        ("bb_left,bb_top,bb_width,bb_height", XYWH),
        ("bbox_x,bbox_y,bbox_w,bbox_h", XYWH),
        ("bboxX,bboxY,bboxWidth,bboxHeight", XYWH),
        ("BBox X,BBox Y,BBox W,BBox H", XYWH),
        ("xmin,ymin,width,height", XYWH),
        ("cx,cy,w,h", CXCYWH),
        ("x_center,y_center,width,height", CXCYWH),
        ("bbox_x_center,bbox_y_center,bbox_width,bbox_height", CXCYWH),
        ("xc,yc,w,h", CXCYWH),
    ],
)
def test_names_say_the_layout(names: str, values: tuple[float, ...]) -> None:
    table = table_of(names, values, kept="own")
    assert boxes_of(table) == [XYXY]
    read, units, notes = read_boxes(table, BoxOptions(), "rows.csv")
    assert (units, read["kept"].to_pylist()) == ("pixels", ["own"])
    assert len(notes) == (names != "x1,y1,x2,y2")  # what was read as what is said
    assert [name for name in read.column_names if name.strip().lower() in BOX] == list(BOX)


@pytest.mark.parametrize(
    ("value", "layout", "told"),
    [
        ([10, 20, 40, 60], None, "xyxy"),
        ([10.0, 20.0, 30.0, 40.0], None, "xywh"),
        ("[25, 40, 30, 40]", None, "cxcywh"),
        ("(10 20 40 60)", None, "xyxy"),
        ("10;20;40;60", None, "xyxy"),
        ({"x1": 10, "y1": 20, "x2": 40, "y2": 60}, "xyxy", None),
        ({"left": 10, "top": 20, "width": 30, "height": 40}, "xywh", None),
    ],
)
@pytest.mark.parametrize("name", ["bbox", "box", "BoundingBox", "bounding_box", "pred_bbox"])
def test_one_column_with_a_box(name: str, value: Any, layout: str | None, told: str) -> None:
    table = table_of(name, (value,))
    if layout is None:
        with pytest.raises(SourceError, match="boxes"):
            boxes_of(table)
    assert boxes_of(table, told) == [XYXY]


def test_a_column_that_names_its_layout_needs_no_option() -> None:
    assert boxes_of(table_of("bbox_xywh", ("[10, 20, 30, 40]",))) == [XYXY]
    assert boxes_of(table_of("xyxy", ([10, 20, 40, 60],))) == [XYXY]


def test_what_was_said_goes_before_names() -> None:
    assert boxes_of(table_of("x,y,w,h", CXCYWH), "cxcywh") == [XYXY]
    assert boxes_of(table_of("x1,y1,x2,y2", XYWH), "xywh") == [XYXY]
    assert boxes_of(table_of("bbox_0,bbox_1,bbox_2,bbox_3", XYXY), "xyxy") == [XYXY]


@pytest.mark.parametrize(
    "names",
    [
        "xmin,ymin,xmax,ymax,x,y,w,h",
        "bbox_x1,bbox_y1,bbox_x2,bbox_y2,x,y,width,height",
        "X1,x1 ,y1,x2,y2",
        "xmin,ymin,xmax",
        "x1,y1",
        "x1",
        "x,y,w",
        "left,top,right",
        "bbox_x,bbox_y",
        "bbox_x,bbox_y,width,height",
        "bbox_0,bbox_1,bbox_2,bbox_3",
        "x1,y1,x2,y2,x3,y3,x4,y4",
        "bbox_n,bbox_e,bbox_s,bbox_o",
        "detection_xmin,detection_ymax",
        "cx,cy,w",
    ],
)
def test_what_is_like_boxes_and_not_known_is_refused(names: str) -> None:
    values = tuple(float(10 * (at + 1)) for at in range(len(names.split(","))))
    with pytest.raises(SourceError):
        boxes_of(table_of(names, values))


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("x,y", (4.5, 52.1)),  # a place
        ("width,height", (4096, 2160)),  # of the image
        ("latitude,longitude,depth", (1.0, 2.0, 3.0)),
        ("left,right", (True, False)),
        ("box", ("B12",)),  # of a collection
        ("nest_box,box_id", (3, 4)),
        ("bbox_score,bbox_label,bbox_area,bbox_id", (0.9, "moth", 12.0, 1)),
        ("x,y,z", (1.0, 2.0, 3.0)),
        ("pca_x1,pca_x2,pca_x3", (1.0, 2.0, 3.0)),
        ("temperature_min,temperature_max", (1.0, 2.0)),
        ("xmin,xmax", (1.0, 2.0)),  # a range
        ("cx,cy", (1.0, 2.0)),
    ],
)
def test_what_is_no_box_passes_through(names: str, values: tuple[Any, ...]) -> None:
    table = table_of(names, values)
    read, _, notes = read_boxes(table, BoxOptions(), "rows.csv")
    assert read.equals(table)
    assert notes == ()


def test_the_columns_of_the_documentation_are_the_boxes_whatever_else_there_is() -> None:
    table = table_of("x1,y1,x2,y2", XYXY, bbox="[1, 2, 3, 4]", width=640, height=480)
    read, _, notes = read_boxes(table, BoxOptions(), "rows.csv")
    assert read.equals(table)
    assert len(notes) == 1  # bbox looks like boxes as well
    sized = table_of("xmin,ymin,xmax,ymax,width,height", (*XYXY, 640, 480))
    assert boxes_of(sized) == [XYXY]


@pytest.mark.parametrize("layout", ["xyxy", "xywh", "cxcywh"])
def test_shares_as_pixels_are_refused_unless_said(layout: str) -> None:
    names = {"xyxy": "x1,y1,x2,y2", "xywh": "x,y,w,h", "cxcywh": "cx,cy,w,h"}[layout]
    shares = table_of(names, (0.25, 0.5, 0.75, 0.875))
    with pytest.raises(SourceError, match="box_units"):
        boxes_of(shares)
    read_boxes(shares, BoxOptions(units="pixels"), "rows.csv")
    _, units, _ = read_boxes(shares, BoxOptions(units="normalised"), "rows.csv")
    assert units == "normalised"
    with pytest.raises(SourceError, match="box_units"):
        boxes_of(table_of(names, XYXY), None, "normalised")


def test_whole_numbers_of_one_pixel_are_pixels_and_a_few_shares_are_said() -> None:
    assert boxes_of(table_of("x1,y1,x2,y2", (0, 0, 1, 1))) == [(0, 0, 1, 1)]
    mixed = pa.table(
        {
            "image": ["a", "b"],
            **{n: [v, s] for n, v, s in zip(BOX, XYXY, (0, 0.1, 0.5, 0.6), strict=True)},
        }
    )
    _, units, notes = read_boxes(mixed, BoxOptions(), "rows.csv")
    assert (units, len(notes)) == ("pixels", 1)


def test_widths_under_the_names_of_corners_are_said() -> None:
    table = table_of("x1,y1,x2,y2", (100.0, 200.0, 30.0, 40.0))
    assert len(read_boxes(table, BoxOptions(), "rows.csv")[2]) == 1


def test_invalid_numbers_stay_rows_and_missing_ones_stay_missing() -> None:
    names = ("xmin", "ymin", "xmax", "ymax")
    rows = [
        (None, None, None, None),
        (1.0, None, 3.0, 4.0),
        (math.nan, 2.0, 3.0, 4.0),
        (1e300, 2.0, 2e300, 4.0),
        (-5.0, -6.0, 7.0, 8.0),
        (2.0**60, 1.0, 2.0**61, 9.0),
    ]
    columns = {
        name: pa.array(side, pa.float64())
        for name, side in zip(names, zip(*rows, strict=True), strict=True)
    }
    read = boxes_of(pa.table({"image": ["a.jpg"] * len(rows), **columns}))
    assert read[0] == (None,) * 4
    assert read[1] == (1, None, 3, 4)
    assert np.isnan(read[2][0])
    assert read[3][0] == math.inf
    assert read[4] == (-5, -6, 7, 8)
    assert read[5][0] == 2.0**60


def test_boxes_as_text_are_numbers_or_refused(tmp_path: Path) -> None:
    assert boxes_of(table_of("xmin,ymin,xmax,ymax", (" 10", "20 ", "40.0", "60"))) == [XYXY]
    with pytest.raises(SourceError, match="xmin"):
        boxes_of(table_of("xmin,ymin,xmax,ymax", ("ten", "20", "40", "60")))
    column = pa.table({"image": ["a"] * 4, "bbox": ["[10, 20, 40, 60]", "", None, "[1, 2"]})
    read = boxes_of(column, "xyxy")
    assert read[:3] == [XYXY, (None,) * 4, (None,) * 4]
    assert np.isnan(read[3]).all()
    with pytest.raises(SourceError):
        boxes_of(pa.table({"image": ["a"], "bbox": [[[1, 2, 3, 4], [5, 6, 7, 8]]]}))


def test_options_without_boxes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="boxes"):
        boxes_of(table_of("night", ("monday",)), "xywh")
    (tmp_path / "a.jpg").touch()
    for options in (BoxOptions("xywh"), BoxOptions(units="pixels"), BoxOptions(frame="stored")):
        with pytest.raises(SourceError, match="box"):
            read_source(str(tmp_path), boxes=options)


def test_the_header_of_a_csv_with_spaces_and_capitals(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "Image, x1, y1, x2, y2, Sequence, frame\na.jpg, 10, 20, 40, 60,monday, 7\n"
    )
    plan = read_source(str(tmp_path / "rows.csv"))
    (row,) = plan.table.to_pylist()
    assert tuple(row[name] for name in BOX) == XYXY
    assert (row["image"], row["sequence"], row["frame"]) == ("a.jpg", "monday", 7)
    assert len(plan.notes) == 4


def test_a_manifest_of_pixels_opens_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.sources.upright.read_header", None)
    (tmp_path / "rows.csv").write_text("image,xmin,ymin,xmax,ymax\ngone.jpg,10,20,40,60\n")
    assert read_source(str(tmp_path / "rows.csv")).table.num_rows == 1
