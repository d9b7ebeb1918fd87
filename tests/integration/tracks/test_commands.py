"""``onepass tracks``: judged, drawn, filmed, reviewed and exported, from a linked run on disk."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.detections import BOX
from tests.helpers.commands import here
from tests.helpers.refusals import only_error
from tests.helpers.runs import write_run
from tests.helpers.videos import write_video
from tracks.association.options import PRESETS
from tracks.link import link_run
from tracks.pictures.annotate import COLOURS
from tracks.pictures.draw import SIDE_PX
from tracks.store import read_tracks

FRAMES = 12
SIZE = (160, 121)  # an odd height, which no video may have
WALKERS = ((20, 20, 4), (120, 80, -3))  # left, top, and how far to the right a frame goes
TINTS = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in COLOURS[:2]]
LOST = (1, 6)  # walker and frame without a detection


def output(*arguments: object) -> tuple[str, str]:
    """What a command of ``onepass tracks`` printed on both streams."""
    done = here("tracks", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def document(*arguments: object) -> dict[str, Any]:
    """Its JSON."""
    parsed: dict[str, Any] = json.loads(output(*arguments, "--json")[0])
    return parsed


def refused(*arguments: object) -> str:
    done = here("tracks", *arguments)
    return only_error(done.returncode, done.stdout, done.stderr)


def place(walker: int, frame: int) -> tuple[float, float, float, float]:
    left, top, speed = WALKERS[walker]
    x = left + speed * frame
    return float(x), float(top), float(x + 20), float(top + 20)


def box_columns(boxes: list[Any]) -> dict[str, list[Any]]:
    return dict(zip(BOX, np.array(boxes).T.tolist(), strict=True))


def scene(
    folder: Path,
    *,
    every: int = 1,
    sequences: tuple[str, ...] = ("night 0",),
    images: bool = True,
    errors: dict[int, str] | None = None,
) -> Path:
    """A linked run of two walkers, one of whom is lost for a frame; images beside it."""
    rows: list[tuple[Any, ...]] = []
    base = np.random.default_rng(0).normal(size=(2, 8))
    for sequence in sequences:
        for number in range(FRAMES):
            frame, name = number * every, f"{sequence}/{number * every:03d}.png"
            picture = Image.new("RGB", SIZE, (90, 90, 90))
            for walker in range(2):
                box = place(walker, number)
                ImageDraw.Draw(picture).rectangle(box, fill=(230, 230, 230))
                if (walker, number) != LOST:
                    rows.append((name, *box, sequence, frame, f"{sequence}-{frame}-{walker}"))
            if images:
                (folder / sequence).mkdir(parents=True, exist_ok=True)
                picture.save(folder / name)
    columns = ("image", *BOX, "sequence", "frame", "detection_id")
    plan = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
    looks = [base[int(name[-1])] for name in plan["detection_id"]]
    run = write_run(folder / "run", plan, np.array(looks), root=folder, errors=errors).path
    link_run(run)
    return run


def truth(file: Path, *, frames: int = FRAMES, first: int = 1, every: int = 1) -> Path:
    """The walkers' truth, every frame of it, in the numbers of MOTChallenge."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{frame * every + first},{walker + 1},{x1},{y1},{x2 - x1},{y2 - y1},1,1,1\n"
        for frame in range(frames)
        for walker in range(2)
        for x1, y1, x2, y2 in [place(walker, frame)]
    ]
    file.write_text("".join(lines))
    return file


def evaluated(run: Path, file: Path, *more: object) -> tuple[dict[str, Any], ...]:
    """A run of one sequence: its evaluation and its scores."""
    evaluation = document("evaluate", run, "--truth", file, *more)
    (one,) = evaluation["sequences"]
    assert evaluation["together"] == one["scores"]
    return one, one["scores"]


def test_a_run_is_judged_and_a_lost_frame_costs_what_it_must(tmp_path: Path) -> None:
    run, file = scene(tmp_path), truth(tmp_path / "gt.txt")
    _, scores = evaluated(run, file)
    assert (scores["truth_boxes"], scores["boxes"], scores["missed"]) == (24, 23, 1)
    assert (scores["switches"], scores["fragmentations"]) == (0, 1)
    assert scores["mota"] == pytest.approx(23 / 24)
    assert scores["idf1"] == pytest.approx(46 / 47)
    assert scores["det_a"] == pytest.approx(23 / 24)
    assert scores["ass_a"] == pytest.approx((12 + 11 * 11 / 12) / 23)
    out, err = output("evaluate", run, "--truth", file)
    assert "HOTA 0.9" in out
    assert err == ""


def test_a_sampled_run_is_judged_on_what_it_has_seen(tmp_path: Path) -> None:
    """Every tenth frame of 200: the truth walks ten times slower than the run shows it."""
    run = scene(tmp_path, every=10)
    file = truth(tmp_path / "gt.txt", frames=20, every=10)
    with file.open("a") as lines:
        lines.writelines(f"{frame},3,1,1,5,5,1,1,1\n" for frame in range(2, 150) if frame % 10 != 1)
    one, scores = evaluated(run, file)
    assert (scores["frames"], scores["truth_tracks"]) == (12, 2)
    assert scores["mota"] == pytest.approx(23 / 24)
    assert (one["unseen_frames"], one["empty_frames"]) == (8 + 134, 0)
    assert "142 frames of the truth left out" in output("evaluate", run, "--truth", file)[0]


def test_frames_in_which_nothing_was_found_count_as_misses(tmp_path: Path) -> None:
    frames = [0, 1, 2, 4, 5]
    plan = {"image": [f"cam/{frame}.png" for frame in frames], "frame": frames}
    plan |= box_columns([place(0, frame) for frame in frames])
    run = write_run(tmp_path / "sparse", plan, np.ones((5, 8))).path
    link_run(run)
    one, scores = evaluated(run, truth(tmp_path / "gt.txt", frames=6))
    assert (one["empty_frames"], one["unseen_frames"]) == (1, 0)
    assert (scores["frames"], scores["missed"]) == (6, 7)


def test_detections_with_errors_are_not_found(tmp_path: Path) -> None:
    run = scene(tmp_path, errors={4: "damaged image: made", 5: "damaged image: made"})
    one, scores = evaluated(run, truth(tmp_path / "gt.txt"))
    assert (one["failed"], scores["missed"], scores["frames"]) == (2, 3, 12)


def test_a_folder_of_truths(tmp_path: Path) -> None:
    run, folder = scene(tmp_path, sequences=("a", "b", "c")), tmp_path / "truths"
    truth(folder / "a.txt")
    truth(folder / "b" / "gt" / "gt.txt", frames=6)
    out, err = output("evaluate", run, "--truth", folder)
    assert "all 2: HOTA" in out
    assert err.startswith("warning: 1 sequences have no truth")
    evaluation = document("evaluate", run, "--truth", folder)
    assert evaluation["together"]["truth_boxes"] == 24 + 12
    assert evaluation["without_truth"] == ["c"]
    one, _ = evaluated(run, folder, "--sequence", "b")
    assert (one["sequence"], one["truthless_frames"]) == ("b", 6)


def test_frames_counted_from_elsewhere(tmp_path: Path) -> None:
    run, file = scene(tmp_path), truth(tmp_path / "gt.txt", first=1001)
    assert "--first-frame" in refused("evaluate", run, "--truth", file)
    assert evaluated(run, file, "--first-frame", 1001)[1]["missed"] == 1


def test_what_cannot_be_judged(tmp_path: Path) -> None:
    run = scene(tmp_path, sequences=("a", "b"))
    file = truth(tmp_path / "gt.txt")
    (tmp_path / "empty").mkdir()
    bare = write_run(tmp_path / "bare", {"image": ["a.png"]}, np.ones((1, 8))).path
    for arguments, named in (
        ((run, "--truth", file), "--sequence"),
        ((run, "--truth", file, "--sequence", "z"), "--sequence z"),
        ((run, "--truth", tmp_path / "gone"), "gone does not exist"),
        ((run, "--truth", tmp_path / "empty"), "a/gt/gt.txt"),
        ((bare, "--truth", file), "onepass link"),
    ):
        assert named in refused("evaluate", *arguments)


@pytest.mark.parametrize("preset", ["default", "ami"])
def test_an_export_judges_itself_perfect(tmp_path: Path, preset: str) -> None:
    run = scene(tmp_path, sequences=("cam/1", "Cam 2", "cam 2"))
    link_run(run, options=PRESETS[preset])
    out, err = output("export", run, "--format", "mot", "--out", tmp_path / "mot")
    assert err == ""
    assert "69 boxes" in out
    assert sorted(file.name for file in (tmp_path / "mot").iterdir()) == [
        "Cam 2.txt",
        "cam 2~2.txt",
        "cam%2F1.txt",
    ]
    first = (tmp_path / "mot" / "cam%2F1.txt").read_text().splitlines()[0]
    assert first == "1,1,20.00,20.00,20.00,20.00,1,-1,-1,-1"
    evaluation = document("evaluate", run, "--truth", tmp_path / "mot")
    together = evaluation["together"]
    assert [together[name] for name in ("hota", "idf1", "mota", "switches")] == [1, 1, 1, 0]
    assert together["frames"] == 36


def test_export_leaves_what_stands_alone(tmp_path: Path) -> None:
    run, full = scene(tmp_path), tmp_path / "full"
    full.mkdir()
    (full / "diary.txt").write_text("mine")
    for kind in ("mot", "coco"):
        assert f"--out {full}" in refused("export", run, "--format", kind, "--out", full)
    assert (full / "diary.txt").read_text() == "mine"


def test_coco(tmp_path: Path) -> None:
    """Read as pycocotools reads: every id once, every reference there, boxes as x, y, w, h."""
    run = scene(tmp_path, sequences=("a", "b"), errors={0: "damaged image: made"})
    (tmp_path / "a" / "003.png").unlink()
    out, err = output("export", run, "--format", "coco", "--out", tmp_path / "tracks.json")
    assert err == "warning: 1 images have no width and height: they cannot be read\n"
    assert "45 boxes in 4 tracks; 1 detections in no track left out" in out
    coco = json.loads((tmp_path / "tracks.json").read_text())
    images = {image["id"]: image for image in coco["images"]}
    boxes = {box["id"]: box for box in coco["annotations"]}
    assert (len(images), len(coco["images"])) == (24, 24)
    assert (len(boxes), len(coco["annotations"])) == (45, 45)
    sizes = {(image.get("width"), image.get("height")) for image in images.values()}
    assert sizes == {SIZE, (None, None)}
    assert {video["id"]: video["name"] for video in coco["videos"]} == {1: "a", 2: "b"}
    classes = {one["id"]: one["name"] for one in coco["categories"]}
    tracks = {row["detection_id"]: row for row in read_tracks(run).to_pylist()}
    number: dict[str, int] = {}
    for box in boxes.values():
        image = images[box["image_id"]]
        row = tracks[box["detection_id"]]
        assert classes[box["category_id"]].startswith("class ")
        assert image["frame_id"] == row["frame"]
        assert image["file_name"] == f"{row['sequence']}/{row['frame']:03d}.png"
        walker = int(box["detection_id"][-1])
        x1, y1, x2, y2 = place(walker, row["frame"])
        assert box["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        assert box["area"] == 400
        assert box["score"] in (pytest.approx(0.5), pytest.approx(0.9))
        assert number.setdefault(row["track_id"], box["track_id"]) == box["track_id"]
    assert sorted(number.values()) == [1, 2, 3, 4]


def test_pictures_of_every_sequence(tmp_path: Path) -> None:
    run = scene(tmp_path, sequences=("a", "b/c"))
    (tmp_path / "a" / "004.png").write_bytes(b"no image")
    for image in (tmp_path / "b/c").iterdir():
        image.unlink()
    out, err = output("draw", run, "--out", tmp_path / "pictures", "--json")
    drawn = json.loads(out)
    assert (drawn["missing"], drawn["blank"]) == ({"not an image": 1, "missing file": 12}, 1)
    assert err.count("warning: ") == 2
    for file, name, shade in zip(drawn["files"], ("a.png", "b%2Fc.png"), (131, 255), strict=True):
        assert Path(file) == tmp_path / "pictures" / name
        pixels = np.asarray(Image.open(file))
        assert max(pixels.shape) == SIDE_PX
        assert all((pixels == tint).all(axis=2).sum() > 500 for tint in TINTS)
        assert pixels[5, 5].tolist() == [shade] * 3


def frames_of(file: Path) -> list[np.ndarray]:
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def near(pixels: np.ndarray, tint: list[int]) -> int:
    """How many pixels are of a colour, but for what a codec makes of it."""
    return int((np.abs(pixels.astype(int) - tint).max(axis=2) < 60).sum())


def test_a_video_of_photos(tmp_path: Path) -> None:
    run = scene(tmp_path)
    (tmp_path / "night 0" / "002.png").unlink()
    out, err = output("video", run, "--out", tmp_path / "night.mp4", "--json")
    film = json.loads(out)
    assert (film["frames"], film["tracks"], film["fps"]) == (12, 2, 4)
    assert film["size"] == [160, 120]
    assert film["codec"] in ("libx264", "mpeg4")
    assert film["missing"] == {"missing file": 1}
    assert err.count("warning: 1 images cannot be read") == 1
    shown = frames_of(tmp_path / "night.mp4")
    assert len(shown) == 12
    assert all(frame.shape == (120, 160, 3) for frame in shown)
    red, blue = (np.array([near(frame, tint) for frame in shown]) for tint in TINTS)
    assert (red > 20).all()
    assert (blue > 20).all()
    edge = slice(97, 101)  # below the walker that is lost: corners alone
    assert near(shown[6][edge], TINTS[1]) < near(shown[5][edge], TINTS[1])
    assert np.median(shown[2]) == pytest.approx(190, abs=6)
    assert np.median(shown[3]) == pytest.approx(90, abs=6)


def test_a_video_of_frames_of_a_video(tmp_path: Path) -> None:
    """Every second of 24 frames at 25 a second plays at 12.5."""
    write_video(tmp_path / "clip.mp4", 24, width=96, height=64)
    frames = list(range(0, 24, 2))
    plan = {"image": [f"clip.mp4#frame={frame}" for frame in frames], "frame": frames}
    plan |= box_columns([(5.0, 30.0, 30.0, 55.0)] * 12)
    run = write_run(tmp_path / "run", plan, np.ones((12, 8)), root=tmp_path).path
    link_run(run)
    film = document("video", run, "--out", tmp_path / "out.mp4")
    assert (film["frames"], film["fps"], film["size"]) == (12, 12.5, [96, 64])
    shown = frames_of(tmp_path / "out.mp4")
    left = [int(frame[5, 40, 0]) for frame in shown]  # 6 brighter from one to the next
    assert np.diff(left).mean() == pytest.approx(6, abs=1)
    slower = document("video", run, "--out", tmp_path / "out.mp4", "--fps", 3)
    assert slower["fps"] == 3


def test_a_video_of_images_of_two_sizes_keeps_boxes_on_what_they_hold(tmp_path: Path) -> None:
    """The second image is twice as large, and its box as well: both end in one place."""
    sizes = {"a.png": 1, "b.png": 2, "c.png": 1}
    for name, times in sizes.items():
        Image.new("RGB", (160 * times, 120 * times), (90, 90, 90)).save(tmp_path / name)
    box = np.array([40.0, 60, 80, 100])
    plan = {"image": list(sizes), **box_columns([box * times for times in sizes.values()])}
    run = write_run(tmp_path / "run", plan, np.ones((3, 8)), root=tmp_path).path
    link_run(run, options=PRESETS["online"].replace(max_cost=9))
    output("video", run, "--out", tmp_path / "out.mp4")
    shown = frames_of(tmp_path / "out.mp4")
    assert [frame.shape for frame in shown] == [(120, 160, 3)] * 3
    for frame in shown:
        rows = frame[70:90].astype(int)
        columns = np.median(rows[..., 0] - rows[..., 1], axis=0) > 50  # the first colour is red
        assert columns[38:43].any()
        assert columns[77:82].any()
        assert not columns[85:].any()


def test_videos_that_cannot_be(tmp_path: Path) -> None:
    run = scene(tmp_path, sequences=("a", "b"), images=False)
    assert "--sequence: 'a', 'b'" in refused("video", run, "--out", tmp_path / "a.mp4")
    assert "a.gif" in refused("video", run, "--out", tmp_path / "a.gif", "--sequence", "a")
    assert not list(tmp_path.glob("*.mp4"))


def test_a_video_without_any_image(tmp_path: Path) -> None:
    run = scene(tmp_path, images=False)
    filmed = document("video", run, "--out", tmp_path / "grey.mp4")
    assert (filmed["tracks"], filmed["size"]) == (2, [140, 100])
    assert filmed["missing"] == {"missing file": 12}
    assert len(frames_of(tmp_path / "grey.mp4")) == filmed["frames"] == 12


def test_the_doubtful_links_first(tmp_path: Path) -> None:
    run = scene(tmp_path)
    review = document("review", run, "--out", tmp_path / "review", "--worst", 20)
    assert (review["links"], review["of"], review["missing"]) == (20, 21, {})
    with (tmp_path / "review" / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    links = [row for row in read_tracks(run).to_pylist() if row["margin"] is not None]
    links.sort(key=lambda row: (row["margin"], -row["cost"]))
    margins = [float(row["margin"]) for row in rows]
    assert margins == pytest.approx([row["margin"] for row in links[:20]])
    by_id = {row["detection_id"]: row for row in links}
    for row in rows:
        link = by_id[row["detection_id"]]
        assert row["previous_detection_id"] == link["previous_detection_id"]
        assert float(row["cost_iou"]) == pytest.approx(link["cost_iou"])
        assert row["previous_detection_id"].split("-")[1] == row["frame_before"]
        assert row["verdict"] == ""
    assert [row["sheet"] for row in rows] == ["1"] * 18 + ["2"] * 2
    sheets = sorted(file.name for file in (tmp_path / "review").glob("*.png"))
    assert sheets == ["review-01.png", "review-02.png"]
    output("review", run, "--out", tmp_path / "review", "--worst", 5)
    assert sorted(file.name for file in (tmp_path / "review").glob("*.png")) == ["review-01.png"]
    text = (tmp_path / "review" / "review.csv").read_text()
    judged = text.replace(".png,\n", ".png,wrong\n", 1)
    saved = (judged.encode(), judged.replace(",", ";").encode("latin-1"), judged.encode("utf-16"))
    for data in (*saved, judged.replace(",", "\t").encode("utf-16")):  # as spreadsheets save it
        (tmp_path / "review" / "review.csv").write_bytes(data)
        assert "review.csv holds 1 verdicts" in refused("review", run, "--out", tmp_path / "review")
        assert (tmp_path / "review" / "review.csv").read_bytes() == data


def test_a_review_holds_no_formula(tmp_path: Path) -> None:
    names = ("=1+1", "@SUM(1)", "-2", "+3", "'quoted", "plain, with =")
    run = scene(tmp_path, sequences=names, images=False)
    document("review", run, "--out", tmp_path / "review", "--worst", 500)
    with (tmp_path / "review" / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [row[name] for row in rows for name in row if not name.startswith(("margin", "cost"))]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    shown = {name: name.removeprefix("'") for name in {row["sequence"] for row in rows}}
    assert {*shown} == {"'=1+1", "'@SUM(1)", "'-2", "'+3", "''quoted", "plain, with ="}
    assert {*shown.values()} == {*names}
    assert {row["image"].removeprefix("'").split("/")[0] for row in rows} == {*names}


def test_a_review_of_images_that_are_gone_and_of_no_links(tmp_path: Path) -> None:
    run = scene(tmp_path, images=False)
    out, err = output("review", run, "--out", tmp_path / "review", "--worst", 1, "--json")
    assert json.loads(out)["missing"] == {"missing file": 2}
    assert err.count("warning: ") == 1
    lone = write_run(tmp_path / "lone", {"image": ["a.png"]}, np.ones((1, 8))).path
    link_run(lone)
    assert "no links to review" in refused("review", lone, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()
