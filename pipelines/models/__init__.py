"""Networks: one file per family, all with one interface (``base``), built by spec (``registry``).

It promises that class and embedding come from one pass and equal the model's own output, and that
other weights have another fingerprint. It may import ``pipelines.images``,
``pipelines.sources`` (to compare models on real images) and the contracts.
"""
