"""Heads: classifiers trained on features that a run has stored, with no second pass.

Trained, measured beside baselines, applied to stored features or run live in the one pass. It promises
that a head refuses features of another model. It may import everything else of ``pipelines``.
"""
