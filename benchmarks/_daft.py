"""The same job in Daft: ``_daft.py FOLDER MODEL WEIGHTS OUT``; its native runner, float32.

MODEL is a timm name. Images are squashed to 224 pixels and scaled to -1..1; a process a core.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import daft
import numpy as np
import timm
from daft import DataType, Series

NAME = sys.argv[2]
with_no_weights = timm.create_model(NAME)
DIM = getattr(with_no_weights, "head_hidden_size", None) or with_no_weights.num_features
del with_no_weights


@daft.cls(max_concurrency=len(os.sched_getaffinity(0)), use_process=True)
class Forward:
    def __init__(self, name: str, weights: str, stamp: str):
        import torch

        torch.set_num_threads(1)
        self.model = timm.create_model(name).eval()
        self.model.load_state_dict(torch.load(weights, weights_only=True))
        self.model = self.model.to(memory_format=torch.channels_last)
        self.stamp = Path(stamp)

    @daft.method.batch(
        return_dtype=DataType.struct(
            {
                "label_index": DataType.int64(),
                "embedding": DataType.fixed_size_list(DataType.float32(), DIM),
            }
        ),
        batch_size=32,
    )
    def answer(self, images: Series) -> list[dict[str, object]]:
        import torch

        pixels = np.stack([np.asarray(image) for image in images.to_pylist()])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        with torch.inference_mode():
            x = (x.float() - 127.5) / 127.5
            pooled = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
            best = self.model.get_classifier()(pooled).argmax(1).tolist()
            rows = pooled.numpy()
        if not self.stamp.exists():
            self.stamp.write_text(str(time.time()))
        return [{"label_index": b, "embedding": row} for b, row in zip(best, rows, strict=True)]


def main() -> None:
    daft.set_runner_native()
    stamp = str(Path(tempfile.mkdtemp()) / "first")
    paths = sorted(str(f) for f in Path(sys.argv[1]).iterdir())
    frame = daft.from_pydict({"image": paths})
    images = frame["image"].download().decode_image(mode="RGB").resize(224, 224)
    frame = frame.with_column("pixels", images)
    frame = frame.with_column("out", Forward(NAME, sys.argv[3], stamp).answer(frame["pixels"]))
    frame = frame.exclude("pixels").write_parquet(sys.argv[4])
    frame.collect()
    print(json.dumps({"first": float(Path(stamp).read_text())}))


if __name__ == "__main__":
    main()
