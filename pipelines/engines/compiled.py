"""Compiled ahead of time by PyTorch's Inductor: the kernels fused, the weights frozen in.

``torch.compile`` compiles again in every process, which costs each actor most of a minute even
with its cache. The same compiler run ahead of time writes one file that loads in a second, for
other actors and later runs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from pipelines.engines.cache import build_error, cache_folder, cached, digest
from pipelines.model_info import ModelInfo, Precision
from pipelines.models.network import Network

_EXAMPLE_ROWS = 4  # any number but 1, which the compiler would treat as a constant
# Of a batch: with more rows a large map has over 2**31 elements and the compiler uses 64-bit
# indices, which are slower on a GPU.
MOST_ROWS = 1024


def cache_name(facts: ModelInfo, precision: Precision, device: torch.device) -> str:
    """Name of the compiled file, by network, precision, compiler and processor.

    Args:
        facts: of the model.
        precision: what it computes in.
        device: to run on.
    """
    processor = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else sorted(torch.cpu.get_capabilities().items())
    )
    key = digest(facts.answers_sha256, precision, torch.__version__, device.type, processor)
    return f"{key}.pt2"


def is_cached(facts: ModelInfo, precision: Precision, device: torch.device) -> bool:
    """Whether the cache holds the compiled network.

    Args:
        facts, precision, device: as ``cache_name`` takes them.
    """
    return (cache_folder() / cache_name(facts, precision, device)).exists()


def load(
    make: Callable[[], Network],
    *,
    facts: ModelInfo,
    precision: Precision,
    device: torch.device,
    lanes: int = 1,
) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Load the compiled network, and compile it first where the cache does not hold it.

    Args:
        make: builds the network, where it must be compiled.
        facts: of the model.
        precision: what it computes in.
        device: to run on.
        lanes: threads that will call it at a time.

    Returns:
        As ``Engine`` calls it.

    Raises:
        ModelError: the network cannot be compiled.
    """
    size = facts.preprocess.input_size
    file = cached(
        cache_name(facts, precision, device),
        lambda draft: _compile(make, size, device, draft),
    )
    # late: two seconds, which no other engine needs
    from torch._inductor.package.package import load_package

    package = load_package(str(file), num_runners=lanes)
    # The package gives a list, or one tensor bare; the contract is a tuple.
    return lambda pixels: tuple(package(pixels))


def _compile(
    make: Callable[[], Network], size: tuple[int, int], device: torch.device, target: Path
) -> None:
    network = make().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    example = torch.zeros((_EXAMPLE_ROWS, *size, 3), dtype=torch.uint8, device=device)
    rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
    quiet = logging.getLogger("torch.utils.cpp_extension")
    # It warns on every machine without a GPU. A level would be reset when the compiler configures
    # its logs.
    quiet.addFilter(_drop)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about its own internals
            program = torch.export.export(
                network, (example,), dynamic_shapes=({0: rows},), strict=False
            )
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(target),
                inductor_configs={"freezing": device.type == "cpu"},
            )
    except Exception as error:  # the compiler runs any network's own code
        raise build_error("compile", "compiled", error) from error
    finally:
        quiet.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False
