"""``onepass clips``: the stored frame embeddings of a run as one HDF5 file a split."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.executors import ExecutorChoice
from cluster.tasks import Tasks, tasks
from common.errors import InputError, RunError
from common.json_models import sha256_file, write_hashed
from common.lock import lock_folder
from common.sampling import spread
from pipelines.outputs.clips.find import Clip, find_clips
from pipelines.outputs.clips.folder import (
    ClipsManifest,
    ClipsRequest,
    LeftOut,
    file_stem,
    finished_clips,
)
from pipelines.outputs.clips.scales import REAL_TIME
from pipelines.outputs.clips.shards import (
    FOLDER,
    ClipShard,
    Layout,
    make_shards,
    write_clip_shard,
)
from pipelines.outputs.hdf5 import join
from pipelines.run import Run

MAX_SCALE = 10.0
PROCESSES_FROM_BYTES = 64 * 2**20  # of features: a core compresses as many in seconds
_THEN = "what is written is kept, the same command continues"


@dataclass(frozen=True)
class Outcome:
    """The outcome of ``make_clips``."""

    manifest: ClipsManifest
    already_finished: bool = False
    resumed_clips: int = 0  # clips that an earlier session had written


def make_clips(
    run_folder: Path,
    out: Path,
    *,
    scales: tuple[float, ...] = (REAL_TIME,),
    limit: int | None = None,
    executor: ExecutorChoice = "auto",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Write the clips of a run into ``out``, one HDF5 file a split.

    The same call continues what is unfinished and leaves what is finished alone.

    Args:
        run_folder: a finished run with columns ``sequence``, ``frame``, ``split``, ``category``.
        out: a new folder, or one of the same call.
        scales: speeds whose mean is stored; see ``multi_scale``.
        limit: only so many clips, spread evenly over the run.
        executor: where the files are written.
        report: called with (clips done, clips in all).

    Raises:
        InputError: run, scales or ``out`` do not fit; nothing was written.
        WorkError: the work failed; the same call continues it.
    """
    _check_scales(scales)
    run = Run.open(run_folder)
    request = ClipsRequest(
        run=sha256_file(run.path / "manifest.json")[:16],
        fingerprint=run.manifest.fingerprint,
        scales=scales,
        limit=limit,
    )
    if manifest := finished_clips(out, request):
        return Outcome(manifest, already_finished=True)
    plan = _make_plan(run, request)
    with lock_folder(out, "clips"):
        if manifest := finished_clips(out, request):  # by another process, meanwhile
            return Outcome(manifest, already_finished=True)
        large = plan.bytes > PROCESSES_FROM_BYTES
        with tasks("clips", executor=executor, large=large, then=_THEN) as runner:
            write_hashed(out / "request.json", request)
            resumed = _write_shards(out.resolve(), plan, runner, report)
        for split, shards in plan.shards.items():
            clips = {shard.name: len(shard.ids) for shard in shards}
            if clips:
                target = out / f"{file_stem(split, scales)}.h5"
                join(target, clips, plan.attributes | {"num_videos": sum(clips.values())})
        manifest = _describe(out, plan)
        manifest.write(out)
    return Outcome(manifest, resumed_clips=resumed)


def _check_scales(scales: tuple[float, ...]) -> None:
    shown = ",".join(f"{scale:g}" for scale in scales)
    if not scales or not all(math.isfinite(s) and 0 < s <= MAX_SCALE for s in scales):
        raise InputError(
            f"`scales={shown}`: each must be above 0 and at most {MAX_SCALE:g}, as 1.0,0.85,1.15"
        )
    if len(set(scales)) != len(scales):
        raise InputError(f"`scales={shown}`: each scale once")


@dataclass(frozen=True)
class _Plan:
    """The shards to write, before the first embedding is read."""

    run: Run
    request: ClipsRequest
    layout: Layout
    attributes: dict[str, Any]  # of every file
    shards: dict[str, list[ClipShard]]  # split to its files; none where no clip is whole
    left_out: tuple[LeftOut, ...]

    @property
    def bytes(self) -> int:
        """Size of the features to write."""
        clips = sum(len(shard.ids) for inside in self.shards.values() for shard in inside)
        return 4 * clips * self.layout.max_frames * self.layout.feature_dim


def _make_plan(run: Run, request: ClipsRequest) -> _Plan:
    """Divide the selected clips of a run, those without an error, into shards."""
    clips = find_clips(run)
    selected = spread(clips, request.limit)
    whole: dict[str, list[Clip]] = {clip.split: [] for clip in selected}
    for clip in selected:
        if clip.error is None:
            whole[clip.split].append(clip)
    left_out = tuple(
        LeftOut(id=c.id, split=c.split, failed=c.failed, planned=c.rows, error=c.error)
        for c in selected
        if c.error is not None
    )
    if len(left_out) == len(selected):
        raise RunError(
            f"{run.path}: each of {len(selected)} clips has an error, the first {left_out[0].id}: "
            f"{left_out[0].error}; look at the source of the run"
        )
    model = run.manifest.model
    # Of all clips, whatever the limit, so that any two files of a run fit together.
    layout = Layout(
        scales=request.scales,
        stored_frames=max(clip.rows for clip in clips if not clip.failed),
        feature_dim=model.feature_dim,
        id_bytes=max(len(clip.id.encode()) for clip in clips),
    )
    names = sorted({clip.category for clip in clips if clip.category is not None})
    labels = {name: number for number, name in enumerate(names)}
    files = [run.check(file).resolve() for file in run.files()]
    return _Plan(
        run=run,
        request=request,
        layout=layout,
        attributes={
            "max_frames": layout.max_frames,
            "feature_dim": layout.feature_dim,
            "category_mapping": json.dumps(labels, ensure_ascii=False),
            "multi_scale": len(request.scales) > 1,
            "scales": list(request.scales),
            "backbone": model.request.spec,
            "model_sha256": model.weights_sha256,
            "fingerprint": run.manifest.fingerprint,
            "frames_per_video": layout.stored_frames,
            "image_size": list(model.preprocess.input_size),
        },
        shards={
            split: make_shards(file_stem(split, request.scales), inside, layout, files, labels)
            for split, inside in whole.items()
        },
        left_out=left_out,
    )


def _write_shards(out: Path, plan: _Plan, runner: Tasks, report: Callable[[int, int], None]) -> int:
    """Write the missing shards, and return the number of clips in the others."""
    shards = [shard for inside in plan.shards.values() for shard in inside]
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    wanted = {Path(shard.name).name for shard in shards}
    for draft in folder.iterdir():  # of a session that was killed
        if draft.name not in wanted:
            draft.unlink(missing_ok=True)  # a task that is being cancelled may rename it
    missing = [shard for shard in shards if not shard.is_complete(out)]
    total = sum(len(shard.ids) for shard in shards)
    resumed = done = total - sum(len(shard.ids) for shard in missing)
    report(done, total)

    def wrote(shard: ClipShard) -> None:
        nonlocal done
        done += len(shard.ids)
        report(done, total)

    runner.run(partial(write_clip_shard, out, plan.layout), missing, done=wrote)
    return resumed


def _describe(out: Path, plan: _Plan) -> ClipsManifest:
    names = [shard.name for inside in plan.shards.values() for shard in inside]
    names += [
        f"{file_stem(split, plan.request.scales)}.h5" for split, own in plan.shards.items() if own
    ]
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(sha256_file, [out / name for name in names]))
    return ClipsManifest(
        run=str(plan.run.path.resolve()),
        request=plan.request,
        clips={
            split: sum(len(shard.ids) for shard in inside) for split, inside in plan.shards.items()
        },
        max_frames=plan.layout.max_frames,
        feature_dim=plan.layout.feature_dim,
        left_out=plan.left_out,
        files=dict(zip(names, hashes, strict=True)),
    )
