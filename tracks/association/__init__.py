"""Contract 5, on arrays: which detection of an earlier frame each detection continues.

``options`` holds the options and ``state`` the open tracks. Between these and one frame, ``costs``
computes the cost of pairs and ``assign`` chooses the links; ``decide`` selects the pairs to compare
and calls both, and ``linker`` goes through the frames of a sequence. Nothing here reads a file.
"""
