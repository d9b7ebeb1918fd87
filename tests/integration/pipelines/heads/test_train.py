"""``onepass probe`` through the command line, on runs that extraction made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from pipelines.models.head import load_head
from pipelines.outputs.clips.write import make_clips
from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.heads import expected_logits, stored_values
from tests.helpers.pictures import drawn
from tests.helpers.refusals import only_error
from tests.helpers.videos import write_video


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in three shades, laid out SPLIT/CATEGORY, and one that is broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(48):
        shade = ("dark", "light", "plain")[number % 3]
        part = ("train", "train", "val", "test")[number // 3 % 4]
        picture = np.asarray(drawn(number, width=96, height=64))
        if shade != "plain":
            picture = picture // 4 + (0 if shade == "dark" else 190)
        file = folder / part / shade / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(file)
    (folder / "train" / "dark" / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return extracted(
        photos, tmp_path_factory.mktemp("runs") / "run", engine="eager", features=("map",)
    )


def extracted(source: Path, out: Path, **given: Any) -> Run:
    fields = {"model": "tiny", "precision": "fp32"} | given
    return extract(ExtractConfig(source=source, **fields), out).run


def probe(*arguments: object) -> tuple[int, str, str]:
    ended = here("probe", *arguments)
    return ended.returncode, ended.stdout, ended.stderr


CATEGORY = ("--labels", "category", "--split-by", "split")


@pytest.mark.parametrize("features", ["pooled", "map"])
def test_train_then_apply(
    run: Run,
    tmp_path: Path,
    features: str,
) -> None:
    file, answers = tmp_path / "shade.pt", tmp_path / "answers"
    code, out, err = probe(
        *("train", run.path, "--out", file, *CATEGORY),
        *("--features", features, "--hidden", "16"),
    )
    assert code == 0, err
    assert "warning: 1 rows with an error were left out" in err
    assert "with it: shade.json, shade-confusion.png, shade-validation.png" in out
    record = json.loads((tmp_path / "shade.json").read_text())
    assert record["rows"] == {"train": 24, "validation": 12, "test": 12}
    assert record["head"]["classes"] == ["dark", "light", "plain"]
    assert record["measures"]["validation"]["accuracy"] >= 0.75
    assert record["baselines"]["majority"]["test"]["accuracy"] == pytest.approx(1 / 3)
    assert ("linear" in record["baselines"]) == (features == "pooled")

    command = ("apply", run.path, "--head", file, "--out", answers, "--labels", "category")
    code, out, err = probe(*command, "--json")
    assert code == 0, err
    applied: dict[str, Any] = json.loads(out)
    assert (applied["rows"], applied["failed"], applied["already_done"]) == (49, 1, False)
    parts = record["measures"].values()
    right = sum(part["accuracy"] * part["rows"] for part in parts)
    assert applied["measures"]["rows"] == 48
    assert applied["measures"]["accuracy"] == pytest.approx(right / 48)

    table = pa.concat_tables([pq.read_table(f) for f in sorted(answers.glob("*.parquet"))])
    table = table.sort_by("row_id")
    head = load_head(file)
    good = np.asarray(run.to_arrow(["error"])["error"].is_null())
    values = stored_values(run, "embedding" if features == "pooled" else "feature_map")[good]
    expected = [head.facts.classes[best] for best in expected_logits(head, values).argmax(1)]
    assert table["label"].drop_null().to_pylist() == expected
    assert np.asarray(table["label"].is_null()).tolist() == (~good).tolist()

    code, out, err = probe(*command)
    assert code == 0, err
    assert f"{applied['measures']['accuracy']:.3f}" in out


def test_refusals_leave_nothing(
    run: Run,
    photos: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "made" / "shade.pt"
    probe("train", run.path, "--out", file, *CATEGORY)
    other = extracted(photos, tmp_path / "other", input_size=48)
    before = sorted(tmp_path.rglob("*"))
    new = ("train", run.path, "--out", tmp_path / "new.pt", "--labels")
    for given in (
        ("apply", other.path, "--head", file),
        (*new, "species"),
        (*new, "category", "--hidden", "8,x"),
        (*new, "category", "--split-by", "category"),
        (*new, "category", "--random-backbone"),  # tiny is untrained itself
        ("train", run.path, "--out", file, *CATEGORY),
    ):
        only_error(*probe(*given))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_untrained_network_beside_it(
    photos: Path,
    tmp_path: Path,
) -> None:
    network = timm.create_model("test_resnet", num_classes=4)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.25)
    torch.save(network.state_dict(), tmp_path / "trained.pth")
    spec = "timm:test_resnet"
    run = extracted(photos, tmp_path / "run", model=spec, checkpoint=tmp_path / "trained.pth")
    file = tmp_path / "shade.pt"
    given = ("train", run.path, "--out", file, *CATEGORY, "--random-backbone")
    code, out, err = probe(*given)
    assert code == 0, err
    untrained = Run.open(tmp_path / "shade-random-run")
    assert untrained.manifest.rows.written == 49
    request = untrained.manifest.model.request
    assert (request.spec, request.checkpoint, request.random_weights) == (spec, None, True)
    assert untrained.manifest.fingerprint != run.manifest.fingerprint
    assert not np.allclose(
        stored_values(untrained, "embedding"), stored_values(run, "embedding"), equal_nan=True
    )
    record = json.loads((tmp_path / "shade.json").read_text())
    assert record["random_backbone"]["run"] == "shade-random-run"
    scores = record["random_backbone"]["scores"]
    assert scores.keys() == {"train", "validation", "test"}
    shown = [line.split() for line in out.splitlines() if "random backbone" in line]
    assert [line[2] for line in shown] == ["train", "validation", "test"]
    assert shown[1][4] == f"{scores['validation']['accuracy']:.3f}"


def test_clips_of_videos(tmp_path: Path) -> None:
    """Videos to frames, frames to clips, clips to a head for that model's features."""
    for number in range(6):
        for part in ("train", "val"):
            for kind, frames in (("long", 60), ("short", 8)):
                write_video(tmp_path / "videos" / part / kind / f"{number}.mp4", frames + number)
    run = extracted(tmp_path / "videos", tmp_path / "run", kind="video", frames=4)
    make_clips(run.path, tmp_path / "clips")
    train, val = (tmp_path / "clips" / f"{part}_features.h5" for part in ("train", "val"))
    given = ("train", train, "--validation", val, *CATEGORY[:2])
    code, out, err = probe(*given, "--out", tmp_path / "length.pt")
    assert code == 0, err
    assert "no picture of validated images: a clip file does not hold them" in out
    record = json.loads((tmp_path / "length.json").read_text())
    assert record["rows"] == {"train": 12, "validation": 12}
    assert record["head"]["classes"] == ["long", "short"]
    assert record["head"]["fingerprint"] == run.manifest.fingerprint
    assert record["measures"]["validation"]["accuracy"] == 1
    assert record["baselines"]["majority"]["validation"]["accuracy"] == 0.5
