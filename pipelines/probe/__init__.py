"""Heads: classifiers trained on features that a run has stored, with no second pass.

``features`` and ``clips`` read what is trained on, ``parts`` divides it, ``fit`` fits it with
scikit-learn, ``chance`` extracts from the untrained network, ``report`` measures, ``pictures``
draws, ``train`` puts these together, ``apply`` classifies a run's stored rows.
"""
