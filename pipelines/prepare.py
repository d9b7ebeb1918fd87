"""What stands before an extraction: the plan and the command."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.config import Options, Progress
from pipelines.model_info import ModelRequest
from pipelines.request import Command, fingerprint_inputs
from pipelines.sources.plan import Plan, name_source, read_source

VIDEO_SIDE = 256  # pixels of a frame's side, squashed: what clip features are usually made from


def prepare(
    source: str, model: ModelRequest, options: Options, report: Callable[[Progress], None]
) -> tuple[Plan, Command]:
    """Read ``source``, and put what is asked of it into a command.

    Raises:
        InputError: source or model do not fit.
    """
    reading = options.reading
    plan = read_source(
        source, reading, report=lambda done, total: report(Progress("planning", done, total))
    )
    if reading.kind == "video":
        model = _for_videos(model)
    return plan, Command(
        source=name_source(source),
        reading=reading,
        model=model,
        gate=options.gate,
        inputs=fingerprint_inputs(
            plan.decisive, model, options.gate.model if options.gate else None
        ),
        precision=options.precision,
        engine=options.engine,
        top_k=options.top_k,
        outputs=options.outputs,
        hdf5=options.hdf5,
    )


def _for_videos(model: ModelRequest) -> ModelRequest:
    """The whole frame, squashed to ``VIDEO_SIDE``, where the user wants nothing else."""
    own = {"input_size": VIDEO_SIDE, "resize": "squash"}
    return model.model_copy(
        update={name: value for name, value in own.items() if getattr(model, name) is None}
    )
