"""Heads: classifiers trained on the stored features of a run, with no second pass.

They are trained, measured with baselines, and applied to stored features or live in the one pass.
It promises that a head refuses features of another model. It may import everything else of ``pipelines``.
"""
