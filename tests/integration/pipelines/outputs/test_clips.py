"""Clips: every number against the rows it was made of; resumed, refused, moved."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from common.errors import FolderError, RunError, VerifyError, WorkError
from pipelines.outputs.clips import shards, write
from pipelines.outputs.clips.write import make_clips
from pipelines.outputs.hdf5_info import read_h5, verify_h5
from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.refusals import only_error
from tests.helpers.runs import TINY_FACTS, write_run
from tests.unit.pipelines.outputs.test_clip_scales import THREE, by_hand

DIM = 8
NOT_OPENED = "unreadable: cannot be opened [bad.mp4]"
# id, split, category, frames
CLIPS = [
    ("train/bees/c1.mp4", "train", "bees", 6),
    ("train/bees/c2.mp4", "train", "bees", 4),
    ("train/ants/ä3.mp4", "train", "ants", 8),
    ("train/c4.mp4", "train", None, 5),
    ("train/bees/bad.mp4", "train", "bees", 1),
    ("train/ants/half.mp4", "train", "ants", 9),
    ("val/wasps/c5.mp4", "val", "wasps", 6),
    ("val/bees/c6.mp4", "val", "bees", 3),
    ("lost/moths/c7.mp4", "lost", "moths", 1),
]
GOOD = {"train": CLIPS[:4], "val": CLIPS[6:8]}
FRAMES = {(1.0,): 8, (0.5,): 5, THREE: 9}  # of eight at most, at each scale
MAPPING = {"ants": 0, "bees": 1, "moths": 2, "wasps": 3}


@dataclass
class Made:
    """A run, and what its rows are, for comparison by hand."""

    run: Run
    rows: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)  # clip, frame
    order: list[str] = field(default_factory=list)  # clips by their first row

    def in_order(self, split: str) -> list[tuple[str, str | None]]:
        known = {name: category for name, _, category, _ in GOOD[split]}
        return [(name, known[name]) for name in self.order if name in known]

    def clip(self, name: str) -> np.ndarray:
        return np.array([self.rows[name][frame] for frame in sorted(self.rows[name])])


def make_run(path: Path, *, seed: int = 3) -> Made:
    """The clips, their rows shuffled over three files, two clips spoilt and one split lost."""
    random = np.random.default_rng(seed)
    rows = [(clip, 3 * n + 2) for clip in CLIPS for n in range(clip[3])]
    rows = [rows[at] for at in random.permutation(len(rows))]
    values = random.normal(size=(len(rows), DIM)).astype(np.float32)
    errors = {}
    for at, ((name, *_), frame) in enumerate(rows):
        if "bad" in name or "lost" in name:
            errors[at] = NOT_OPENED
        elif "half" in name and frame in (5, 20):
            errors[at] = f"decode: damaged [frame {frame}]"
    plan = {
        "image": [f"{name}#{frame}" for (name, *_), frame in rows],
        "sequence": [name for (name, *_), _ in rows],
        "frame": [frame for _, frame in rows],
        "split": [split for (_, split, *_), _ in rows],
        "category": [category for (_, _, category, _), _ in rows],
    }
    made = Made(write_run(path, plan, values, errors=errors, files=3))
    for ((name, *_), frame), value in zip(rows, values, strict=True):
        made.rows.setdefault(name, {})[frame] = value
    made.order = list(made.rows)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips a shard."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 2 * 9 * DIM * 4)


def done(*arguments: object) -> str:
    """Standard output of a command that succeeds."""
    ended = here(*arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def states(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def assert_equals_rows(file: Path, made: Made, split: str, scales: tuple[float, ...]) -> None:
    """Every dataset of ``file`` against the rows of the run, computed by hand."""
    wanted = made.in_order(split)
    with h5py.File(file) as stored:
        names = [name.decode() for name in stored["ids"][:]]
        assert names == [name for name, _ in wanted]
        expected = [-1 if c is None else MAPPING[c] for _, c in wanted]
        assert stored["labels"][:].tolist() == expected
        assert stored["labels"].dtype == np.int64
        assert stored["num_frames"].dtype == np.int32
        assert stored["features"].dtype == np.float32
        assert stored["features"].shape == (len(wanted), FRAMES[scales], DIM)
        for row, name in enumerate(names):
            clip = made.clip(name)
            values = clip if scales == (1.0,) else np.array(by_hand(clip, scales))
            assert stored["num_frames"][row] == len(values)
            stored_clip = stored["features"][row]
            np.testing.assert_allclose(stored_clip[: len(values)], values, rtol=1e-6, atol=1e-7)
            assert (stored_clip[len(values) :] == 0).all()


@pytest.mark.parametrize(("scales", "named"), [((1.0,), ""), ((0.5,), ""), (THREE, "_multiscale")])
def test_files_equal_the_rows_they_were_made_of(
    small_shards: None,
    made: Made,
    tmp_path: Path,
    scales: tuple[float, ...],
    named: str,
) -> None:
    out = tmp_path / "features"
    printed = done(*("clips", made.run.path, "--out", out, "--scales", ",".join(map(str, scales))))
    for split in ("train", "val"):
        file = out / f"{split}_features{named}.h5"
        assert_equals_rows(file, made, split, scales)
        longest = FRAMES[scales]
        assert f"{file}: {len(GOOD[split])} clips, {longest} frames, 8-d\n" in printed
        with h5py.File(file) as stored:
            attributes = dict(stored.attrs)
            assert json.loads(attributes.pop("category_mapping")) == MAPPING
            assert attributes.pop("scales").tolist() == list(scales)
            assert attributes.pop("image_size").tolist() == [32, 32]
            assert attributes == {
                "num_videos": len(GOOD[split]),
                "max_frames": longest,
                "feature_dim": 8,
                "multi_scale": len(scales) > 1,
                "backbone": "tiny",
                "model_sha256": "0" * 64,
                "fingerprint": made.run.manifest.fingerprint,
                "frames_per_video": 8,
            }
    assert sorted(file.name for file in (out / "shards").iterdir()) == [
        f"train_features{named}-00000.h5",
        f"train_features{named}-00001.h5",
        f"val_features{named}-00000.h5",
    ]
    with h5py.File(out / "shards" / f"train_features{named}-00000.h5") as shard:
        assert shard["features"].chunks == (1, longest, DIM)
        assert (shard["features"].compression, shard["features"].compression_opts) == ("gzip", 4)
    assert not (out / f"lost_features{named}.h5").exists()
    assert "split lost: every clip has an error; no file was written" in printed
    assert f"left out: train/bees/bad.mp4: {NOT_OPENED}\n" in printed
    assert f"next: onepass probe train {out}/train_features{named}.h5 --labels category" in printed
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["clips"] == {"train": 4, "val": 2, "lost": 0}
    left = {entry["id"]: entry for entry in manifest["left_out"]}
    assert left.keys() == {"train/bees/bad.mp4", "train/ants/half.mp4", "lost/moths/c7.mp4"}
    half = left["train/ants/half.mp4"]
    assert (half["failed"], half["planned"]) == (2, 9)
    texts = [e for e in made.run.to_arrow(["error"])["error"].to_pylist() if e and "damaged" in e]
    assert half["error"] == texts[0]
    checked = done("inspect", out / f"train_features{named}.h5", "--verify")
    assert "verified: every value is there; 3 files as in manifest.json" in checked


def test_json_and_a_command_that_is_finished(made: Made, tmp_path: Path) -> None:
    command = ("clips", made.run.path, "--out", tmp_path / "out")
    document = json.loads(done(*command, "--json"))
    assert document["clips"] == {"train": 4, "val": 2, "lost": 0}
    assert (document["max_frames"], document["feature_dim"]) == (8, 8)
    assert len(document["left_out"]) == 3
    assert document["already_finished"] is False
    before = states(tmp_path / "out")
    assert json.loads(done(*command, "--json"))["already_finished"] is True
    assert states(tmp_path / "out") == before


def test_only_what_is_missing_is_written_again(
    small_shards: None, made: Made, tmp_path: Path
) -> None:
    make_clips(made.run.path, tmp_path)
    shards = sorted((tmp_path / "shards").iterdir())
    before = states(tmp_path)
    shards[0].unlink()
    shards[1].write_bytes(b"of a disk that was full")
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "shards" / ".train_features-00000.h5.77").write_bytes(b"of a killed process")
    assert make_clips(made.run.path, tmp_path).resumed_clips == 2
    assert sorted((tmp_path / "shards").iterdir()) == shards
    assert [shard for shard in shards if states(tmp_path)[shard] == before[shard]] == shards[2:]
    for split in ("train", "val"):
        assert_equals_rows(tmp_path / f"{split}_features.h5", made, split, (1.0,))
    verify_h5(read_h5(tmp_path / "train_features.h5"))


def test_limit_takes_clips_from_all_of_the_run(made: Made, tmp_path: Path) -> None:
    manifest = make_clips(made.run.path, tmp_path, limit=4).manifest
    names = [clip.id for clip in manifest.left_out]
    for split in GOOD:
        if manifest.clips.get(split):
            with h5py.File(tmp_path / f"{split}_features.h5") as stored:
                assert json.loads(stored.attrs["category_mapping"]) == MAPPING
                assert stored["features"].shape[1] == 8
                names += [name.decode() for name in stored["ids"][:]]
    assert sorted(names) == sorted(made.order[at] for at in (0, 2, 5, 8))  # of nine


def test_a_moved_folder_reads_and_a_missing_shard_is_named(
    small_shards: None, made: Made, tmp_path: Path
) -> None:
    make_clips(made.run.path, tmp_path / "here")
    moved = tmp_path / "far" / "away"
    moved.parent.mkdir()
    shutil.move(tmp_path / "here", moved)
    file = moved / "train_features.h5"
    assert_equals_rows(file, made, "train", (1.0,))
    shard = moved / "shards" / "train_features-00001.h5"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(VerifyError, match=shard.name):
        read_h5(file)
    with h5py.File(file) as stored:  # and nobody takes it for zeros
        assert np.isnan(stored["features"][2:]).all()
        assert stored["labels"][2:].tolist() == [-1, -1]
        assert np.isfinite(stored["features"][:2]).all()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VerifyError, match=f"{shard.name} does not match its sha256"):
        verify_h5(read_h5(file))
    (moved / "manifest.json").unlink()
    shard.write_bytes(b"no HDF5")
    with pytest.raises(VerifyError, match="features cannot be read"):
        verify_h5(read_h5(file))
    h5py.File(shard, "w").close()  # nothing in it, which HDF5 takes for fill values
    with pytest.raises(VerifyError, match="features of row 2 was never written"):
        verify_h5(read_h5(file))


def test_after_a_failing_task_the_call_goes_on(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = write.find_clips(made.run)
    good = next(clip for clip in clips if clip.id == "val/wasps/c5.mp4")
    good.rows += 1  # as if a row had gone since they were counted
    with monkeypatch.context() as patch:
        patch.setattr(write, "find_clips", lambda run: clips)
        with pytest.raises(WorkError, match="9 are there now"):
            make_clips(made.run.path, tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    make_clips(made.run.path, tmp_path)
    assert_equals_rows(tmp_path / "val_features.h5", made, "val", (1.0,))


def test_out_of_something_else_is_refused(made: Made, tmp_path: Path) -> None:
    out, other, mine = tmp_path / "out", tmp_path / "other", tmp_path / "mine"
    make_clips(made.run.path, out)
    other_run = make_run(other, seed=4).run
    mine.mkdir()
    (mine / "diary.txt").write_text("dear")
    before = states(tmp_path)
    for run, folder, options, difference in (
        (made.run, out, {"limit": 2}, "limit: then None, now 2"),
        (made.run, out, {"scales": (1.0, 0.5)}, r"scales: then \(1.0,\), now \(1.0, 0.5\)"),
        (other_run, out, {}, "run: then '"),
        (made.run, other, {}, "'detections'"),
        (made.run, mine, {}, "'diary.txt'"),
        (made.run, mine / "diary.txt", {}, "is a file"),
    ):
        with pytest.raises(RunError, match=difference):
            make_clips(run.path, folder, **options)
    assert states(tmp_path) == before


def test_two_at_once_are_refused(made: Made, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FolderError):
            make_clips(made.run.path, tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / ".lock"]


def plan_of(rows: int, **columns: list[Any]) -> dict[str, list[Any]]:
    plain: dict[str, list[Any]] = {
        "image": [f"{n}.jpg" for n in range(rows)],
        "sequence": ["one"] * rows,
        "frame": list(range(rows)),
        "split": ["train"] * rows,
        "category": ["bees"] * rows,
    }
    return plain | columns


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({k: v for k, v in plan_of(4).items() if k != "split"}, "no column 'split'"),
        (plan_of(4, frame=[0, 1, 1, 2]), "several rows for one frame"),
        (plan_of(4, frame=[0, 3, 3, 2]), "several rows for one frame"),  # in two files
        (plan_of(4, category=["bees", "bees", "ants", "ants"]), "category '....' and of '....'"),
        (plan_of(4, category=["bees", None, None, None]), "category 'bees' and of None"),
        (plan_of(4, split=["train", "train", "val", "val"]), "split '.*' and of '.*'"),
        (plan_of(4, split=[None] * 4), "has no split"),
        (plan_of(4, split=["../up"] * 4), "cannot name a file"),
    ],
)
def test_runs_without_clips_are_refused(
    tmp_path: Path, plan: dict[str, list[Any]], reason: str
) -> None:
    write_run(tmp_path / "run", plan, np.ones((4, DIM)), files=2)
    with pytest.raises(RunError, match=reason):
        make_clips(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_errors_alone_is_refused(tmp_path: Path) -> None:
    errors = dict.fromkeys(range(2), NOT_OPENED)
    plan = plan_of(2, sequence=["a", "b"], frame=[0, 0])
    write_run(tmp_path / "run", plan, np.ones((2, DIM)), errors=errors)
    with pytest.raises(RunError, match=re.escape(f"the first a: {NOT_OPENED}")):
        make_clips(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scales", ["fast", "1.0,0", "nan", "11", "1.0,1.0"])
def test_bad_scales(made: Made, tmp_path: Path, scales: str) -> None:
    ended = here("clips", made.run.path, "--out", tmp_path / "out", "--scales", scales)
    assert "--scales" in only_error(ended.returncode, ended.stdout, ended.stderr)
    assert not (tmp_path / "out").exists()


def test_categories_may_be_numbers(tmp_path: Path) -> None:
    plan = plan_of(
        6,
        sequence=["b", "a", "a", "b", "a", "b"],
        frame=[9, 2, 1, 5, 0, 7],
        category=[12, 3, 3, 12, 3, 12],
    )
    values = np.arange(6 * DIM).reshape(6, DIM)
    facts = TINY_FACTS.model_copy(update={"weights": "others"})
    write_run(tmp_path / "run", plan, values, files=1, facts=facts)
    make_clips(tmp_path / "run", tmp_path / "out")
    with h5py.File(tmp_path / "out" / "train_features.h5") as stored:
        assert [name.decode() for name in stored["ids"][:]] == ["b", "a"]
        assert json.loads(stored.attrs["category_mapping"]) == {"12": 0, "3": 1}
        assert stored["labels"][:].tolist() == [0, 1]
        assert np.array_equal(stored["features"][0], values[[3, 5, 0]])
        assert np.array_equal(stored["features"][1], values[[4, 2, 1]])
