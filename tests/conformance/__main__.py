"""``python -m tests.conformance``: every family, written down in ``docs/models.md``.

One model of every module family of timm, every classifier of torchvision, and the six of
AMI, with random weights. Exits 1 if a model breaks the contract and no note explains why.
Names as arguments (``timm:volo_d1_224``) check these alone and write nothing.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torchvision

from pipelines.model_info import ModelRequest
from pipelines.models import timm_family, torchvision_family
from pipelines.models.ami import KINDS
from tests.conformance.chosen import SMALLEST
from tests.conformance.suite import Finding, check

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

# Where a network's library states something else than what the network does.
EXPLAINED = {
    "timm:tresnet_m": "timm states reduction 2 for level 0, a space-to-depth stem of 4",
}


def everything() -> Iterator[tuple[str, str]]:
    """Family and spec of each model of the sweep."""
    for module in timm.list_modules():
        yield f"timm {module}", f"timm:{SMALLEST.get(module) or _smallest(module)}"
    for name in torchvision_family.names():
        yield "torchvision", f"torchvision:{name}"
    for name in KINDS:
        yield "ami", f"ami:{name}"


def _smallest(module: str) -> str:
    """For families that the table does not know yet."""
    sizes = {}
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            model = timm.create_model(name)
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    return min(sizes, key=sizes.__getitem__)


def examined(spec: str) -> Finding:
    """Check one model; whatever it raises is its problem, and the sweep goes on."""
    family, _, name = spec.partition(":")
    bare = family == "timm" and timm.get_pretrained_cfg(name).num_classes == 0
    try:
        found = check(spec, timm_family.load(ModelRequest(spec=spec), 10) if bare else None)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        return Finding(spec, problems=[f"{type(error).__name__}: {said[:160]}"])
    if bare:
        found.notes.append("an encoder; --labels gives it a classifier")
    return found


def page(rows: list[tuple[str, Finding]]) -> str:
    """``docs/models.md``."""
    failed = [found.spec for _, found in rows if found.problems]
    counts = {
        name: sum(found.spec.startswith(f"{name}:") for _, found in rows)
        for name in ("timm", "torchvision", "ami")
    }
    lines = [
        "# Models, as checked",
        "",
        f"timm {timm.__version__}, torchvision {torchvision.__version__.partition('+')[0]}, torch "
        f"{torch.__version__.partition('+')[0]}: {counts['timm']} models, one (the smallest) of "
        f"each of timm's module families; all {counts['torchvision']} classifiers of torchvision; "
        f"{counts['ami']} of AMI. {len(rows) - len(failed)} of {len(rows)} keep every promise; "
        f"exceptions: {', '.join(failed) or 'none'}. Written by `make conformance`; random "
        "weights, float32, two random images.",
        "",
        "*error*: largest difference between the one pass's logits and `model(x)`, as a share of",
        "the largest logit. *levels*: input pixels a cell, from level 0; a number in brackets counts",
        "repetitions. Also checked: D is what the network declares, the last map is the same when",
        "levels are asked for, channels and resolution of each level, `map_mean`, a bfloat16 body.",
        "",
        "| family | model | input | D | error | levels | note |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(family, found) for family, found in rows]
    return "\n".join(lines) + "\n"


def _row(family: str, found: Finding) -> str:
    notes = [*found.notes]
    if found.problems:
        notes.insert(
            0, EXPLAINED.get(found.spec, "**unexplained**") + ": " + "; ".join(found.problems)
        )
    cells = (
        family,
        f"`{found.spec}`",
        str(found.size),
        str(found.dim),
        f"{found.error:.0e}" if found.error else "0",
        _short(found.levels),
        "; ".join(notes).replace("|", "/"),
    )
    return f"| {' | '.join(cells)} |"


def _short(levels: tuple[int, ...]) -> str:
    parts: list[str] = []
    for position, level in enumerate(levels):
        if position and levels[position - 1] == level:
            continue
        same = next((n for n, k in enumerate(levels[position:]) if k != level), None)
        same = len(levels) - position if same is None else same
        parts.append(f"{level} ({same})" if same > 1 else str(level))
    return " ".join(parts)


def main(specs: list[str]) -> int:
    warnings.simplefilter("ignore")
    jobs = [("", spec) for spec in specs] or list(everything())
    rows: list[tuple[str, Finding]] = []
    for number, (family, spec) in enumerate(jobs, start=1):
        began = time.monotonic()
        found = examined(spec)
        rows.append((family, found))
        state = "; ".join(found.problems) or f"{found.error:.0e}"
        print(
            f"{number}/{len(jobs)} {spec}: {state} ({time.monotonic() - began:.0f} s)", flush=True
        )
        gc.collect()
    if not specs:
        PAGE.write_text(page(rows), encoding="utf-8")
    broken = [found.spec for _, found in rows if found.problems and found.spec not in EXPLAINED]
    print(f"{len(rows)} models, {len(broken)} unexplained: {' '.join(broken) or 'none'}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
