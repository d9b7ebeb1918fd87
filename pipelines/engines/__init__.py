"""How a network is executed: eager, compiled ahead of time, or by OpenVINO.

An engine turns uint8 batches into float32 answers and knows nothing of images or files. All give
the answers of ``pipelines.models.network.Network``. ``resolve`` decides which one a run uses.
"""

import os

# Huge pages for tensors of 2 MiB and more. glibc gives such memory back at once, so every layer of
# every batch is paged in anew: at 4 KiB a page a tenth to a quarter of what eager costs a core.
# PyTorch asks when it allocates its first tensor, so this stands before all that imports it here.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
