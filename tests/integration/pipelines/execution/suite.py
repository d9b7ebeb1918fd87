"""What every executor promises; a class that inherits ``ExecutorSuite`` holds one to it."""

from __future__ import annotations

import abc
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import h5py
import numpy as np
import pyarrow as pa
import pytest

from cluster.executors import ExecutorName
from common.errors import WorkError
from common.storage import to_path
from pipelines.config import Progress
from pipelines.extract import extract
from pipelines.progress.event_log import read_events
from tests.helpers.pictures import BAD_ERRORS, BAD_FILES
from tests.helpers.s3 import Rule, Store
from tests.integration.pipelines.execution.world import (
    CLIPS,
    FRAMES,
    World,
    everything,
    exact,
    half_done,
    matrix,
    run_of,
    same,
)


class ExecutorSuite(abc.ABC):
    """Subclasses name their executor, and say how a network can be made to fail on it."""

    executor: ClassVar[ExecutorName]
    other: ClassVar[ExecutorName]

    @pytest.fixture
    @abc.abstractmethod
    def failing(self) -> Callable[[int], None]:
        """A function that makes the network raise an error so many times; 0: whenever it runs."""

    @pytest.fixture(scope="class")
    @classmethod
    def done(cls, world: World) -> SimpleNamespace:
        seen: list[Progress] = []
        out = world.folder / cls.executor
        config = exact(world.boxes, cls.executor, hdf5=True)
        outcome = extract(config, out, report=seen.append)
        return SimpleNamespace(outcome=outcome, run=run_of(outcome), seen=seen)

    def test_every_row_is_answered_once_and_nothing_is_left_over(
        self, world: World, done: SimpleNamespace
    ) -> None:
        manifest = done.run.manifest
        assert (manifest.rows.planned, manifest.rows.written) == (world.rows, world.rows)
        assert manifest.session.executor == self.executor
        assert manifest.session.rows == world.rows
        names = {entry.name for entry in done.run.path.iterdir()}
        assert names == {
            *("request.json", "plan", "detections", "hdf5", "features.h5"),
            *("events.jsonl", "manifest.json", ".lock"),
        }
        assert done.outcome.first_answer_seconds > 0
        assert done.outcome.counts.passes == 1
        extracting = [each.done for each in done.seen if each.stage == "extracting"]
        assert extracting == sorted(extracting)
        assert max(extracting) > 0

    def test_the_bits_are_those_of_the_local_executor(
        self, world: World, done: SimpleNamespace
    ) -> None:
        assert same(everything(done.run), everything(world.reference))

    def test_events_add_up_to_the_rows(self, world: World, done: SimpleNamespace) -> None:
        events = read_events(done.run.path)
        assert events[0]["executor"] == self.executor
        for stage in ("decode", "forward", "write"):
            rows = [
                line["rows"]
                for line in events
                if line["event"] == "block" and line["stage"] == stage
            ]
            assert sum(rows) == world.rows

    def test_hdf5_equals_parquet(self, world: World, done: SimpleNamespace) -> None:
        with h5py.File(done.run.path / "features.h5") as file:
            order = np.argsort(file["row_id"][:])
            assert file["features"][:][order].tobytes() == matrix(done.run).tobytes()
            assert file["feature_map"][:][order].tobytes() == (
                matrix(done.run, "feature_map").tobytes()
            )

    def test_what_cannot_be_read_is_a_row_with_an_error(self, world: World, tmp_path: Path) -> None:
        run = run_of(extract(exact(world.bad, self.executor), tmp_path / "run"))
        assert run.manifest.errors == BAD_ERRORS
        assert run.manifest.rows.written == len(BAD_FILES) + 5
        table = run.to_arrow(["error", "label"])
        bad = [error is not None for error in table["error"].to_pylist()]
        assert np.isnan(matrix(run)).all(1).tolist() == bad
        assert [label is None for label in table["label"].to_pylist()] == bad

    def test_a_gate_and_a_head_decide_classes(self, world: World, tmp_path: Path) -> None:
        labels = tmp_path / "labels.txt"
        labels.write_text("tench\n" + "\n".join(f"other {n}" for n in range(999)))
        gate = {
            "gate": "timm:test_resnet",
            "gate_labels": labels,
            "gate_label": "tench",
            "gate_threshold": 0.001,
        }

        def extracted(executor: ExecutorName) -> pa.Table:
            config = exact(world.photos, executor, head=world.head, **gate)
            return everything(run_of(extract(config, tmp_path / executor)))

        assert same(extracted(self.executor), extracted("local"))

    def test_frames_of_videos_are_rows(self, world: World, tmp_path: Path) -> None:
        frames_only = {"kind": "video", "frames": FRAMES, "logits": False, "features": ()}
        config = exact(world.videos, self.executor, **frames_only)
        run = run_of(extract(config, tmp_path / "run"))
        table = run.to_arrow(["sequence", "frame", "error"]).to_pylist()
        for clip, count in CLIPS.items():
            frames = [row["frame"] for row in table if row["sequence"] == clip]
            assert frames == np.linspace(0, count - 1, FRAMES).astype(int).tolist()
        failed = {row["sequence"] for row in table if row["error"]}
        assert failed
        assert not failed & CLIPS.keys()

    def test_a_run_in_an_object_store_that_fails(self, world: World, s3: Store) -> None:
        s3.faults(
            Rule("error", share=0.04),
            Rule("lost", share=0.04, method="PUT"),
            Rule("cut", share=0.03, method="GET"),
        )
        out = to_path(f"s3://bucket/runs/{self.executor}")
        run = run_of(extract(exact(world.boxes, self.executor), out))
        assert s3.counts()["error"] > 0
        s3.faults()
        assert same(everything(run), everything(world.reference))
        left = {key.split("/")[2] for key in s3.stored(f"runs/{self.executor}")}
        assert not left & {".lock", "open", "checkpoint"}

    @pytest.mark.parametrize("whose", ["own", "other"])
    def test_it_goes_on_with_what_either_has_begun(
        self, world: World, tmp_path: Path, whose: str
    ) -> None:
        out = tmp_path / "run"
        stand = half_done(world, out, by=self.executor if whose == "own" else self.other)
        outcome = extract(exact(world.boxes, self.executor, hdf5=True), out)
        assert 0 < outcome.resumed_rows == stand < world.rows
        assert outcome.run.manifest.session.rows == world.rows - stand  # type: ignore[union-attr]
        assert same(everything(run_of(outcome)), everything(world.reference))

    def test_it_goes_on_where_all_but_the_first_block_is_written(
        self, world: World, tmp_path: Path
    ) -> None:
        """Ray passes blocks of which nothing is left to do on without columns, to the very end."""
        out = tmp_path / "run"
        shutil.copytree(world.reference.path, out)
        (out / "manifest.json").unlink()
        (out / "detections" / "part-00000.parquet").unlink()
        outcome = extract(exact(world.boxes, self.executor, hdf5=True), out)
        assert 0 < outcome.resumed_rows < world.rows
        assert same(everything(run_of(outcome)), everything(world.reference))

    def test_it_updates_what_either_has_finished(self, world: World, tmp_path: Path) -> None:
        out, photos = tmp_path / "run", tmp_path / "photos"
        shutil.copytree(world.photos, photos)
        kept = {"features": (), "hdf5": True}
        added = sorted(photos.rglob("*.jpg"))[::7]
        held = [(file, file.read_bytes()) for file in added]
        for file in added:
            file.unlink()
        extract(exact(photos, self.other, **kept), out)
        for file, data in held:
            file.write_bytes(data)
        outcome = extract(exact(photos, self.executor, **kept), out, update=True)
        assert outcome.update is not None
        assert outcome.update.answered == len(added)
        whole = run_of(extract(exact(photos, "local", **kept), tmp_path / "whole"))
        columns = ["image", "detection_id", "frame", "sequence", "label", "error"]
        assert same(
            run_of(outcome).to_arrow(columns).sort_by("image").combine_chunks(),
            whole.to_arrow(columns).sort_by("image").combine_chunks(),
        )

    def test_an_error_of_the_network_is_tried_again(
        self, world: World, tmp_path: Path, failing: Callable[[int], None]
    ) -> None:
        failing(1)
        outcome = extract(exact(world.boxes, self.executor), tmp_path / "run")
        assert outcome.counts.raised == 1
        assert "one of a thousand batches" in outcome.counts.last_error
        assert same(everything(run_of(outcome)), everything(world.reference))

    def test_an_error_that_stays_ends_the_job_and_the_command_continues(
        self, world: World, tmp_path: Path, failing: Callable[[int], None]
    ) -> None:
        out = tmp_path / "run"
        failing(0)
        with pytest.raises(WorkError, match="one of a thousand batches"):
            extract(exact(world.boxes, self.executor), out)
        assert not (out / "manifest.json").exists()
        failing(-1)
        outcome = extract(exact(world.boxes, self.executor), out)
        assert same(everything(run_of(outcome)), everything(world.reference))
