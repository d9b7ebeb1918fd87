"""Contract 5, on arrays: which detection of an earlier frame each detection continues.

``options`` is what can be asked for and ``state`` what is known of open tracks. Between these and
one frame, ``candidates`` says which pairs are worth comparing, ``costs`` what a pair costs,
``assign`` which pairs become links; ``decide`` puts the three together, and ``linker`` goes through
the frames of a sequence. Files are ``index.tracks``' business.
"""
