"""Which number format the network runs in, and what that choice cost.

Half precision is worth it only where the hardware multiplies it natively; elsewhere it is
emulated and slower than float32. ``auto`` therefore asks the device, and the audit
computes the first rows in float32 as well, so that every run says what it traded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from cluster.errors import InputError
from pipelines.facts import Precision, PrecisionAudit

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
AUDIT_ROWS = 8  # float32 is several times slower; enough rows to catch a broken format


def choose(requested: Precision | Literal["auto"]) -> Precision:
    """Resolve ``auto`` for the device this process would run on.

    Raises:
        InputError: fp16 asked for without a GPU; the CPU has no fast path for it.
    """
    if requested == "fp16" and not torch.cuda.is_available():
        raise InputError("--precision fp16 needs a GPU; on this machine use auto, bf16 or fp32")
    if requested != "auto":
        return requested
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    can = torch.cpu.get_capabilities()
    return "bf16" if can.get("amx_bf16") or can.get("avx512_bf16") else "fp32"


def compare(
    pooled: np.ndarray, logits: np.ndarray, pooled_fp32: np.ndarray, logits_fp32: np.ndarray
) -> PrecisionAudit:
    """Compare the same rows in two precisions; ``[B, D]`` and ``[B, C]`` each."""
    a, b = pooled.astype(np.float64), pooled_fp32.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return PrecisionAudit(
        rows=len(cosine),
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
        top1_agreement=float((logits.argmax(1) == logits_fp32.argmax(1)).mean()),
    )
