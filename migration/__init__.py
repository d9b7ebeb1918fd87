"""A run to the same run by another model, with a report and a verdict.

It promises the same rows by the same ids, measures that need no common space, and that the index goes
on serving the old model until the limits are met. It may import ``tracks``, ``index``,
``pipelines``, ``cluster`` and ``common``.
"""
