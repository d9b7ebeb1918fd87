"""``onepass detect``: every image of a source is looked at once, and its boxes are written.

The plan and ``request.json`` come first, so that the same command continues; parts appear whole, so one that
is there is done; the manifest comes last. Parts are tasks, in this process or on Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.tasks import tasks
from common.errors import FileAccessError, FolderError
from common.json_models import (
    read_json,
    sha256_file,
    write_atomic,
    write_hashed,
)
from common.lock import lock_folder
from common.moved import ImageRoot, Pairs
from common.parquet import parquet_bytes, read_parquet
from pipelines.detected.config import EXECUTION, DetectConfig, DetectorInfo
from pipelines.detected.folder import (
    PART,
    PLAN,
    PLAN_COLUMNS,
    REQUEST,
    Detections,
    DetectManifest,
    DetectRequest,
    check_parts,
    is_finished,
)
from pipelines.detectors.blocks import answer, blocks_of, detector_of
from pipelines.sources.plan import Plan
from pipelines.sources.read import name_source, read_source
from pipelines.sources.taken import with_times

_PARTS = 64  # of a source, about; few for a large one, and a step of the bar for a small one
_IMAGES_OF_PART = (4, 256)  # at least, and at most


def detect(
    config: DetectConfig,
    out: Path,
    *,
    pairs: Pairs = (),
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Detections:
    """Find the boxes of every image of a source; the same call continues, or leaves what is finished.

    Args:
        config: what to look for in what.
        out: the folder, new or of the same call.
        pairs: of folders of images that were moved.
        report: called with a stage, and images done and in all.
        note: receives remarks on the source.

    Raises:
        InputError: source, detector or ``out`` do not fit; nothing was written.
        FileAccessError: not one image can be read; the same call tries again.
        WorkError: the work failed; the same call continues it.
    """
    _refuse_others(out)
    plan = read_source(
        config.source,
        kind=config.kind,
        frames=config.frames,
        limit=config.limit,
        pairs=pairs,
        where=config.where,
        report=lambda done, total: report("planning", done, total),
    )
    plan = with_times(plan, lambda done, total: report("planning", done, total))
    for text in plan.notes:
        note(text)
    config = config.model_copy(update={"source": name_source(config.source)})
    try:
        return _detected(config, plan, out, report)
    finally:
        detector_of.cache_clear()  # a notebook goes on, and has other uses for the memory


def _detected(
    config: DetectConfig, plan: Plan, out: Path, report: Callable[[str, int, int], None]
) -> Detections:
    images = _images(plan)
    report("starting", 0, images.num_rows)
    info = detector_of(config).info  # first, so that a wrong one is said before anything is written
    with lock_folder(out, "detect"):
        request = _request(config, info, plan, images, out)
        if is_finished(out):
            return Detections(out)
        size = request.images_of_part
        names = [PART.format(at) for at in range(-(-images.num_rows // size))]
        root = ImageRoot(plan.root, plan.pairs)
        blocks = blocks_of(images, config, root, out.resolve(), names, size)
        done = images.num_rows - sum(block.images.num_rows for block in blocks)

        def answered(count: int) -> None:
            nonlocal done
            done += count
            report("detect", done, images.num_rows)

        report("detect", done, images.num_rows)
        with tasks(
            "detect",
            executor=config.executor,
            address=config.address,
            large=True,
            children=False,  # the network uses all cores itself
            then="finished parts are kept; run it again",
        ) as runner:
            runner.run(answer, blocks, done=answered)
        boxes, empty, failed = check_parts(out, names, images.num_rows)
        if failed == images.num_rows:
            first = read_parquet(out / names[0], columns=["error"])["error"][0].as_py()
            for name in names:  # a disk that was not there may be there next time
                (out / name).unlink()
            raise FileAccessError(f"{config.source}: not one image can be read; the first: {first}")
        DetectManifest(
            config=config,
            detector=info,
            root=str(plan.root),
            images=images.num_rows,
            boxes=boxes,
            empty=empty,
            failed=failed,
            files={name: sha256_file(out / name) for name in names},
        ).write(out)
        return Detections(out)


def _refuse_others(out: Path) -> None:
    """Check that ``out`` is new, empty, or begun by ``detect``."""
    if out.exists() and not out.is_dir():
        raise FolderError(f"`out={str(out)!r}` is a file; give a folder")
    # A session that was killed while planning left no request.
    own = {".lock", "images", PLAN}
    if out.is_dir() and not (out / REQUEST).is_file():
        others = [entry.name for entry in out.iterdir() if entry.name not in own]
        if others:
            raise FolderError(f"{out} holds other files, such as {others[0]}; give a new folder")


def _images(plan: Plan) -> pa.Table:
    """The distinct images of a plan in its order, with a number each."""
    names = plan.table["image"].combine_chunks()
    distinct = names.dictionary_encode()
    first = np.unique(distinct.indices.to_numpy(), return_index=True)[1]
    table = plan.table.select(list(PLAN_COLUMNS)).take(pa.array(np.sort(first)))
    table = table.append_column("number", pa.array(np.arange(table.num_rows)))
    return table.combine_chunks().replace_schema_metadata(None)


def _request(
    config: DetectConfig, info: DetectorInfo, plan: Plan, images: pa.Table, out: Path
) -> DetectRequest:
    """What the folder was begun with, which must be what is asked for now; else it is begun."""
    low, high = _IMAGES_OF_PART
    new = DetectRequest(
        config=config,
        detector=info,
        root=str(plan.root),
        images=images.num_rows,
        images_of_part=int(np.clip(images.num_rows // _PARTS, low, high)),
    )
    if (out / REQUEST).is_file():
        old = read_json(out / REQUEST, DetectRequest)
        differs = [
            name
            for name in DetectConfig.model_fields
            if name not in EXECUTION and getattr(old.config, name) != getattr(config, name)
        ]
        if not differs and old.detector != new.detector:
            differs = ["detector"]
        planned = read_parquet(out / PLAN)
        if differs or not planned.equals(images):
            what = f"another {differs[0]}" if differs else "a source of other images"
            raise FolderError(f"{out} was made of {what}; give another folder")
        return old
    (out / "images").mkdir(exist_ok=True)
    write_atomic(out / PLAN, parquet_bytes(images).to_pybytes())
    write_hashed(out / REQUEST, new)
    return new
