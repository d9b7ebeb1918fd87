"""A project that is moved: photos, runs, tracks, an index; and photos that are moved alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import onepass
from ami.compare import compare_database
from common.errors import InputError, RunError
from tests.helpers.ami import fill
from tests.helpers.api.world import serving
from tests.helpers.commands import here
from tests.helpers.pictures import drawn
from tracks.pictures.scenes import RunImages

MODEL = {"model": "tiny", "precision": "fp32", "engine": "eager", "executor": "local"}


def done(*command: object) -> str:
    ended = here(*command)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Photos, a manifest with relative and one with absolute names, runs, tracks and an index."""
    folder = tmp_path / "old"
    lines = ["image,x1,y1,x2,y2,sequence,frame"]
    for number in range(8):
        file = folder / "photos" / f"night{number % 2}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn(number, width=64, height=48).save(file)
        lines.append(f"{file.relative_to(folder / 'photos')},4,4,40,40,n{number % 2},{number // 2}")
    (folder / "photos" / "boxes.csv").write_text("\n".join(lines))
    absolute = [line.replace("night", f"{folder}/photos/night", 1) for line in lines]
    (folder / "absolute.csv").write_text("\n".join(absolute))
    first = onepass.extract(folder / "photos" / "boxes.csv", out=folder / "runs" / "first", **MODEL)
    onepass.link(first, executor="local")
    onepass.build_index(first, folder / "photos.index")
    second = onepass.extract(folder / "absolute.csv", out=folder / "runs" / "absolute", **MODEL)
    onepass.link(second, executor="local")
    onepass.build_index(second, folder / "absolute.index")
    return folder


def crops(index: Path, **config: Any) -> list[bytes]:
    with serving(index, **config) as client:
        found = client.get("/v1/detections").json()["detections"]
        answers = [client.get(f"/v1/detections/{each['detection_id']}/image") for each in found]
        tracks = client.get("/v1/tracks")
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    assert tracks.status_code == 200
    return [answer.content for answer in answers]


def missing(run: onepass.Run) -> int:
    images = RunImages(run.images)
    for name in run.to_arrow(["image"])["image"].to_pylist():
        images.read(name)
    return sum(images.missing.values())


@pytest.mark.parametrize("name", ["photos", "absolute"])
def test_a_project_that_is_moved_as_a_whole_is_found_again(project: Path, name: str) -> None:
    run = "first" if name == "photos" else name
    before = crops(project / f"{name}.index")
    new = project.rename(project.with_name("new"))
    assert crops(new / f"{name}.index") == before
    assert missing(onepass.open_run(new / "runs" / run)) == 0
    done("link", new / "runs" / run, "--executor", "local")
    done("tracks", "draw", new / "runs" / run, "--out", new / "pictures")
    done("tracks", "export", new / "runs" / run, "--format", "coco", "--out", new / "coco.json")
    sizes = [image["width"] for image in json.loads((new / "coco.json").read_text())["images"]]
    assert sizes == [64] * 8
    done("index", "delete", new / f"{name}.index", "--where", "frame = 0")
    done("index", "compact", new / f"{name}.index", "--executor", "local")
    done("inspect", new / "runs" / run, "--verify")


def test_the_same_command_knows_a_run_that_was_moved(project: Path) -> None:
    new = project.rename(project.with_name("new"))
    source = new / "photos" / "boxes.csv"
    assert len(onepass.extract(source, out=new / "runs" / "first", **MODEL)) == 8
    run = onepass.open_run(new / "runs" / "first")
    ids = run.to_arrow(["detection_id"])["detection_id"].to_pylist()
    drawn(70, width=64, height=48).save(new / "photos" / "night1" / "9.jpg")
    source.write_text(source.read_text() + "\nnight1/9.jpg,4,4,40,40,n1,4")
    with pytest.warns(onepass.OnepassWarning, match="onepass link"):
        grown = onepass.extract(source, out=new / "runs" / "first", update=True, **MODEL)
    assert grown.to_arrow(["detection_id"])["detection_id"].to_pylist()[:8] == ids
    assert grown.manifest.rows.failed == 0
    assert Path(grown.manifest.root) == new / "photos"


@pytest.mark.filterwarnings("ignore::common.errors.OnepassWarning")
def test_weights_may_move_with_an_unfinished_run(tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "photos").mkdir(parents=True)
    drawn(1, width=64, height=48).save(old / "photos" / "a.jpg")
    torch.save(timm.create_model("test_resnet", num_classes=5).state_dict(), old / "weights.pt")
    config = MODEL | {"model": "timm:test_resnet", "checkpoint": old / "weights.pt"}
    run = onepass.extract(old / "photos", out=old / "run", **config)
    run.files()[0].unlink()
    (run.path / "manifest.json").unlink()
    new = old.rename(tmp_path / "new")
    config["checkpoint"] = new / "weights.pt"
    run = onepass.extract(new / "photos", out=new / "run", **config)
    assert (len(run), run.manifest.rows.failed) == (1, 0)
    assert run.manifest.model.request.checkpoint == str(new / "weights.pt")
    onepass.build_index(run, new / "photos.index")
    again = new.rename(tmp_path / "again")
    index = onepass.open_index(again / "photos.index")
    assert index.search_images(again / "photos" / "a.jpg", k=1).scores[0] > 0.999
    assert onepass.open_run(again / "run").manifest.model.request.checkpoint == (
        str(again / "weights.pt")
    )


@pytest.mark.filterwarnings("ignore::common.errors.OnepassWarning")
def test_a_database_that_was_moved_with_its_run_is_updated(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    fill(f"sqlite:///{old}/ami.db", old / "traps")
    run = onepass.extract(f"sqlite:///{old}/ami.db", out=old / "run", progress=False, **MODEL)
    before = run.embeddings()
    old.rename(new)
    url = f"sqlite:///{new}/ami.db"
    updated = onepass.extract(url, out=new / "run", update=True, progress=False, **MODEL)
    assert updated.embeddings().tobytes() == before.tobytes()
    assert compare_database(updated.path, url).gone.count == 0


@pytest.mark.parametrize("name", ["photos", "absolute"])
def test_photos_that_are_moved_alone(project: Path, name: str) -> None:
    run = project / "runs" / ("first" if name == "photos" else name)
    before = crops(project / f"{name}.index")
    (project / "disk").mkdir()
    now = (project / "photos").rename(project / "disk" / "cards")
    pair = f"{project / 'photos'}={now}"
    index = project / f"{name}.index"
    with serving(index) as client:
        first = client.get("/v1/detections").json()["detections"][0]["detection_id"]
        answer = client.get(f"/v1/detections/{first}/image")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "image_missing")
    assert str(project) not in answer.text
    assert crops(index, images=(pair,)) == before
    images = {project / "photos": now}
    assert missing(onepass.open_run(run)) == 8
    opened = onepass.open_run(run, images=images)
    assert missing(opened) == 0
    told = here("tracks", "draw", run, "--out", project / "pictures")
    assert str(project / "photos") in told.stderr
    assert "--images" in told.stderr
    told = here("tracks", "draw", run, "--out", project / "pictures", "--images", pair)
    assert "cannot be read" not in told.stderr
    warned = here("link", run, "--executor", "local").stderr
    assert "--images" in warned
    assert "is not known" not in here("link", run, "--executor", "local", "--images", pair).stderr
    built = project / "again.index"
    done("index", "build", run, "--out", built, "--images", pair)
    assert crops(built) == before
    onepass.build_index(opened, project / "opened.index", progress=False)
    assert crops(project / "opened.index") == before
    query = onepass.open_index(index, images=images).neighbors(first, k=2)
    assert query.draw().size[0] > 0


def test_a_manifest_with_absolute_names_is_read_where_the_photos_are_now(project: Path) -> None:
    now = (project / "photos").rename(project / "cards")
    images = {project / "photos": now}
    run = onepass.extract(project / "absolute.csv", out=project / "third", images=images, **MODEL)
    assert run.manifest.rows.failed == 0
    old = onepass.open_run(project / "runs" / "absolute")
    columns = ["detection_id", "image", "label"]
    assert run.to_arrow(columns).equals(old.to_arrow(columns))
    assert missing(onepass.open_run(project / "third")) == 0  # it remembers
    again = onepass.extract(project / "absolute.csv", out=project / "third", update=True, **MODEL)
    assert again.manifest.vanished == 0


def test_a_migration_says_where_it_looked(project: Path) -> None:
    now = (project / "photos").rename(project / "cards")
    run, out = project / "runs" / "first", project / "runs" / "migrated"
    with pytest.raises(InputError, match="looked in") as caught:
        onepass.migrate(run, model="tiny", out=out, executor="local")
    assert str(project / "photos") in str(caught.value)
    done("migrate", run, "--model", "tiny", "--out", out, "--images", f"{project / 'photos'}={now}")


def test_a_pair_that_is_none_is_refused(project: Path) -> None:
    with pytest.raises(InputError, match="images="):
        onepass.open_run(project / "runs" / "first", images={"/a": project / "no-such-folder"})
    told = here("serve", project / "photos.index", "--images", "nonsense")
    assert told.returncode == 2
    assert "OLD=NEW" in told.stderr


def test_another_card_is_not_taken_for_a_moved_one(project: Path) -> None:
    shutil.copytree(project / "photos", project / "other")
    with pytest.raises(RunError, match="source"):
        onepass.extract(project / "other" / "boxes.csv", out=project / "runs" / "first", **MODEL)
