"""The HTTP query API: one snapshot of an index, served as JSON.

It reads what `index` and `pipelines` wrote and writes nothing itself, so any number of
these processes may serve one index folder.
"""
