"""A command whose models, precision and engine are not resolved yet, and ways to resolve it.

No torch here: a process that only plans, or drives Ray, has another one resolve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from cluster.executors import local_cores
from common.moved import ImageRoot, Pairs
from common.storage import to_path
from pipelines.config import ExtractConfig
from pipelines.engines.cache import cache_folder
from pipelines.models.cache import ModelCache
from pipelines.request import Request

# Of the run's images, to audit and time with: a sixteenth, within these bounds.
SAMPLE_ROWS = (16, 64)


@dataclass(frozen=True)
class Unresolved:
    """A configuration, with all that is needed to choose precision and engine."""

    config: ExtractConfig
    inputs: dict[str, str]  # hashes of the files that it names
    sample: pa.Table  # rows of the plan, to audit and time with
    root: str  # relative image names start here
    rows: int  # planned
    earlier: Request | None = None  # of the run that is continued
    timed: bool = False  # whether times are to be measured
    pairs: Pairs = ()  # of folders of images that were moved

    @property
    def images(self) -> ImageRoot:
        """Where the images are."""
        return ImageRoot(to_path(self.root), self.pairs)


class Resolved(NamedTuple):
    """A request and, for ``timed`` commands, the measured times in seconds."""

    request: Request
    # Of one core with decoding, or of the GPU; None: not measured, or no image could be read.
    seconds_a_row: float | None = None
    building: float = 0.0  # spent on building engines, which later runs only load
    timing: float = 0.0  # spent on measuring


def sample_of(plan: pa.Table) -> pa.Table:
    """A few rows from four positions of the plan; adjacent rows share their image's decoding."""
    least, most = SAMPLE_ROWS
    length = min(most, max(least, plan.num_rows // 16)) // 4
    starts = sorted({plan.num_rows * part // 4 for part in range(4)})
    ends = [*starts[1:], plan.num_rows]
    return pa.concat_tables(
        [plan.slice(a, min(length, b - a)) for a, b in zip(starts, ends, strict=True)]
    )


def resolved_before(unresolved: Unresolved) -> Resolved | None:
    """The cached resolution, where an earlier command on this machine measured all of it."""
    config = unresolved.config
    if config.gate is not None or unresolved.earlier is not None or unresolved.timed:
        return None
    cached = ModelCache(config.model_request, config.outputs).read()
    choice = cached.choices.get(f"{config.precision} {config.engine}") if cached else None
    if cached is None or choice is None:
        return None
    if choice.built is not None and not (cache_folder() / choice.built).exists():
        return None
    return Resolved(
        Request(
            config=config,
            inputs=unresolved.inputs,
            facts=cached.facts,
            labels=cached.labels,
            gate=None,
            precision="fp32",
            engine=choice.engine,
            audit=choice.audit,
            notes=choice.notes,
        )
    )


def resolve_for_actors(unresolved: Unresolved, actors: int | None = None) -> Resolved:
    """Resolve in a process like that of a forward actor.

    Args:
        unresolved: the command.
        actors: of a cluster, of which this worker has the core of one; None: one for each core or
            GPU of this machine, and all of its cores to resolve with.

    Raises:
        InputError: model, labels, precision or engine do not fit.
        WorkError: an unfinished run was started with another model.
    """
    import torch  # late, with all that imports it: it takes seconds

    from pipelines.engines.resolve import resolve  # late: it imports torch

    if actors is None:
        actors = torch.cuda.device_count() or local_cores()
    else:
        torch.set_num_threads(1)
    return resolve(unresolved, lanes=actors).resolved
