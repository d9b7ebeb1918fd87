"""Clips: the stored frame embeddings of a run as one HDF5 file a split.

``find``: the clips of a run; ``scales``: one clip at several speeds; ``shards``: files of some
clips; ``folder``: the output folder and its records; ``write``: the whole command.
"""
