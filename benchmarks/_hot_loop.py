"""One process, one thread, nothing but the network: ``_hot_loop.py MODEL SECONDS``."""

import json
import sys
import time

import timm
import torch


def main() -> None:
    name, seconds = sys.argv[1], float(sys.argv[2])
    torch.set_num_threads(1)
    model = timm.create_model(name).eval()
    model = model.to(torch.bfloat16, memory_format=torch.channels_last)
    x = torch.randn(32, 3, 224, 224).to(torch.bfloat16, memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(3):
            model(x)
        began, rows = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            pooled = model.forward_head(model.forward_features(x), pre_logits=True)
            model.get_classifier()(pooled)
            rows += len(x)
        print(json.dumps({"rate": rows / (time.perf_counter() - began)}))


main()
