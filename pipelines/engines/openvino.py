"""OpenVINO on CPUs: folds, fuses and reorders the network for the processor.

An extra (``pip install 'onepass[openvino]'``). Conversion takes seconds and is cached; the
converted network has float32 weights and serves every precision.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import ModelError
from pipelines.engines.cache import build_error, cache_folder, cached, digest
from pipelines.model_info import ModelInfo, Precision
from pipelines.models.network import Network

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_EXAMPLE_ROWS = 2  # any number but 1, which a converter could treat as a constant


def is_installed() -> bool:
    return find_spec("openvino") is not None


def cache_name(facts: ModelInfo) -> str:
    """Name of the converted network, by network and converter."""
    return digest(facts.answers_sha256, version("openvino"))


def is_cached(facts: ModelInfo) -> bool:
    """Whether the cache holds the converted network."""
    return (cache_folder() / cache_name(facts)).exists()


def load(
    make: Callable[[], Network], *, facts: ModelInfo, precision: Precision, lanes: int = 1
) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Load the converted network, and convert it first where the cache does not hold it.

    Args:
        make: builds the network, where it must be converted.
        facts: of the model.
        precision: what it computes in.
        lanes: threads that will call it at a time. One: a call may use all of PyTorch's threads.

    Returns:
        As ``Engine`` calls it.

    Raises:
        ModelError: OpenVINO is not installed, or cannot convert the network.
    """
    if not is_installed():
        raise ModelError(
            "`engine='openvino'` is not installed; run: pip install 'onepass[openvino]', "
            "or use `engine='eager'`"
        )
    import openvino  # late: an extra

    size = facts.preprocess.input_size
    converted = cached(cache_name(facts), lambda draft: _convert(make, size, draft))
    compiled = openvino.Core().compile_model(
        converted / "network.xml",
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": lanes if lanes > 1 else torch.get_num_threads(),
            "NUM_STREAMS": lanes,
            # Processes that pin their threads all pin them to the same first cores.
            "ENABLE_CPU_PINNING": False,
        },
    )
    # The first tensor of a process sets up tables of the binding, which gives up Python's lock half-way.
    # Two threads that do so at once wait for each other for ever, and hold the whole process.
    _ = openvino.Tensor(np.zeros(1, np.uint8), shared_memory=True).data
    return _Requests(compiled)


class _Requests:
    """One inference request for each thread; its buffers are reused by its next call."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._of_thread = threading.local()

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        outputs = self._of_thread.request.infer([pixels.numpy()], share_inputs=True)
        return tuple(torch.from_numpy(np.array(outputs[port])) for port in self._compiled.outputs)


def _convert(make: Callable[[], Network], size: tuple[int, int], draft: Path) -> None:
    import openvino  # late: an extra

    example = torch.zeros((_EXAMPLE_ROWS, *size, 3), dtype=torch.uint8)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter uses what PyTorch deprecates
            model = openvino.convert_model(
                make(), example_input=example, input=[openvino.PartialShape([-1, *size, 3])]
            )
    except Exception as error:  # the converter runs any network's own code
        raise build_error("openvino", "converted", error) from error
    draft.mkdir()
    openvino.save_model(model, draft / "network.xml", compress_to_fp16=False)
