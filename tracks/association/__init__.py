"""Contract 5, on arrays: which detection of an earlier frame each detection continues.

``options`` holds the options and ``state`` the open tracks. Between these and one frame, ``costs``
computes the cost of pairs, ``assign`` selects the pairs and chooses the links, and ``linker`` goes
through the frames of a sequence. Nothing here reads a file.
"""
