"""Which number formats a device computes fast, and how far they move the answers.

Half precision is worth it only where the hardware multiplies it natively, and harmless only for
networks whose classes survive the rounding. ``auto`` checks the first by the device and the second
by an audit on images of the run.
"""

from __future__ import annotations

import numpy as np
import torch

from common.errors import InputError
from pipelines.model_info import Precision, PrecisionAudit

# The mean cosines that ``auto`` requires of half precision. Rounding moves an embedding by
# sqrt(2 (1 - cosine)) of its length: 4 % at 0.999, which is harmless for search but changed one
# class in 40; 1.4 % at 0.9999, which changed fewer than one in 200. Cosines of a few dozen images
# agree with those of thousands; counts of such rare changes do not.
LEAST_COSINE = 0.999
LEAST_COSINE_FOR_CLASSES = 0.9999


def fast_formats(device: torch.device) -> list[Precision]:
    """Formats that ``device`` multiplies natively, in the order to try them; float32 last.

    GPUs are as fast in fp16 as in bf16. fp16 keeps three bits more and overflows sooner, so it is
    for networks for which bf16 is too coarse.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return ["bf16", "fp16", "fp32"]
        return ["fp16", "fp32"]
    can = torch.cpu.get_capabilities()
    return ["bf16", "fp32"] if can.get("amx_bf16") or can.get("avx512_bf16") else ["fp32"]


def check_format(precision: Precision, device: torch.device) -> None:
    """Refuse a format that the device has no fast path for.

    Raises:
        InputError: fp16 asked for without a GPU.
    """
    if precision == "fp16" and device.type != "cuda":
        raise InputError("`precision='fp16'` needs a GPU; on this machine use auto, bf16 or fp32")


def compare(
    embedding: np.ndarray, logits: np.ndarray, exact_embedding: np.ndarray, exact: np.ndarray
) -> PrecisionAudit:
    """Compare the same rows computed in two ways.

    Args:
        embedding, logits: as rounded, ``[B, D]`` and ``[B, C]``.
        exact_embedding, exact: in float32.
    """
    a, b = embedding.astype(np.float64), exact_embedding.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return PrecisionAudit(
        rows=len(cosine),
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
        top1_agreement=float((logits.argmax(1) == exact.argmax(1)).mean()),
    )


def is_harmless(audit: PrecisionAudit, *, classes_matter: bool) -> bool:
    """Whether ``auto`` may use the audited format; random weights have no classes to keep."""
    return audit.cosine_mean >= (LEAST_COSINE_FOR_CLASSES if classes_matter else LEAST_COSINE)
