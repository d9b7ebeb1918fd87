"""Where the old extractor's vectors can be kept: one Markdown table over the families.

    python benchmarks/old_extractor.py SOURCE [--limit 16] [--models SPEC ...]

SOURCE is a folder of images or a manifest. Each network runs twice on the same crops: as
``children()[:-1]``, flattened and divided by the sum, and as the one pass. Networks without
weights at hand are random: the verdict is about the network, the sums about these weights.
"""

from __future__ import annotations

import argparse

from common.errors import ModelError
from pipelines.model_info import ModelRequest
from pipelines.models.compare import Comparison, compare
from pipelines.models.describe import matching

MODELS = (
    "lite0",
    "tiny",
    "timm:resnet50",
    "timm:mobilenetv3_large_100",
    "timm:convnext_tiny",
    "timm:vit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:tf_efficientnetv2_b0",
    "timm:regnety_016",
    "timm:densenet121",
    "timm:xcit_nano_12_p16_224",
    "torchvision:resnet50",
    "torchvision:mobilenet_v3_large",
    "torchvision:efficientnet_v2_s",
    "torchvision:convnext_tiny",
    "torchvision:vit_b_16",
)
HEADER = ("model", "old D", "new D", "largest difference", "cosine min", "sum share", "verdict")
SHORT = {
    "identical": "identical: keep",
    "other_point": "equals `map_mean`",
    "different": "differ: re-extract",
    "not_runnable": "old one fails: re-extract",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source")
    parser.add_argument("--limit", type=int, default=16, help="rows a model")
    parser.add_argument("--models", nargs="+", default=[*MODELS, *matching("ami:*")])
    given = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |")
    print(f"|{'---|' * len(HEADER)}")
    for spec in given.models:
        try:
            found = compare(ModelRequest(spec=spec), given.source, limit=given.limit)
        except ModelError as error:
            cells: tuple[str, ...] = (spec, "", "", "", "", "", f"not built: {error}")
        else:
            cells = row(found)
        print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |", flush=True)


def row(found: Comparison) -> tuple[str, ...]:
    new = found.new
    shape = " x ".join(map(str, found.old_shape or ()))
    verdict = SHORT[found.verdict]
    if found.old_is_map:
        verdict = "differ, the old one is the unpooled map: re-extract"
    if found.old_error is not None:
        verdict += f" ({found.old_error})"
    return (
        f"`{found.request.spec}`",
        "" if found.old_dim is None else shape,
        str(new.dim),
        "" if new.relative is None else f"{new.relative:.1e}",
        "" if new.cosine_min is None else f"{new.cosine_min:.6f}",
        "" if found.sum_share_min is None else f"{found.sum_share_min:.2g}",
        verdict,
    )


main()
