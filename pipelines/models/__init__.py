"""Networks: one file a family, all under one contract (``base``), built by spec (``registry``).

It promises that class and embedding come out of one pass and equal what the model itself answers,
and that other weights are another fingerprint. It may import ``pipelines.images``,
``pipelines.sources`` (to compare models on real images) and the contracts.
"""
