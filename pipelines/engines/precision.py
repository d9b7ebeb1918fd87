"""Which number format the network runs in, and what that choice cost.

Half precision is worth it only where the hardware multiplies it natively, and harmless only
for networks whose classes survive the rounding. ``auto`` asks the device for the first and
measures the second, on images of the run itself.
"""

from __future__ import annotations

import numpy as np
import torch

from common.errors import InputError
from pipelines.model_info import Precision, PrecisionAudit

# What auto demands of a half format. Rounding moves an embedding by sqrt(2 (1 - cosine)) of
# its length: 4 % at 0.999, which is harmless for search but was seen to change one class in
# 40; 1.4 % at 0.9999, which changes fewer than one in 200. Cosines of a few dozen images
# agree with those of thousands, where counts of such rare changes do not.
LEAST_COSINE = 0.999
LEAST_COSINE_FOR_CLASSES = 0.9999


def fast_formats(device: torch.device) -> list[Precision]:
    """Formats that ``device`` multiplies natively, in the order to try them; float32 last.

    GPUs are as fast in fp16 as in bf16. It keeps three bits more and overflows sooner, so it is
    for networks that bf16 is too coarse for.
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
    """Compare the same rows computed twice; embeddings ``[B, D]`` and logits ``[B, C]``."""
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
