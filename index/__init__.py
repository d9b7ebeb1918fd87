"""Vectors to neighbours: build an index of runs or files, search it, choose its versions.

It promises that every answer is scored with the exact vectors, that a version appears whole or not at
all, and that its manifest says what recall was measured. It knows nothing of tracks or HTTP.
It may import ``pipelines``, ``cluster`` and ``common``.
"""
