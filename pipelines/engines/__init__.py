"""How a network is executed: eager, compiled ahead of time, or by OpenVINO.

An engine turns uint8 batches into float32 answers and knows nothing of images or files.
Each file here holds one way; all give the answers of ``pipelines.network.Network``.
"""
