"""Clips: the stored frame embeddings of a run as one HDF5 file a split.

``find`` says which clips a run holds, ``scales`` what a clip is at several speeds, ``shards``
writes some clips, ``folder`` knows what may stand in the folder, ``write`` does it all.
"""
