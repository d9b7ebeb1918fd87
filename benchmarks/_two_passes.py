"""What people run today: ``_two_passes.py FOLDER MODEL ROWS``; float32, batch 24, twice."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image


def batches(files: list[Path]) -> torch.Tensor:
    for start in range(0, len(files), 24):
        images = [
            Image.open(f).convert("RGB").resize((224, 224)) for f in files[start : start + 24]
        ]
        x = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2)
        yield (x.float() / 255 - 0.5) / 0.25


def main() -> None:
    files = sorted(Path(sys.argv[1]).iterdir())[: int(sys.argv[3])]
    model = timm.create_model(sys.argv[2]).eval()
    extractor = torch.nn.Sequential(*list(model.children())[:-1])
    with torch.inference_mode():
        model(next(batches(files)))
        began = time.perf_counter()
        for x in batches(files):
            model(x).softmax(1)
        for x in batches(files):
            extractor(x).flatten(1)
        print(json.dumps({"rate": len(files) / (time.perf_counter() - began)}))


main()
