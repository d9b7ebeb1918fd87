"""Contract 5, on arrays: which detection of an earlier frame each detection continues.

``options`` is what can be asked for and ``state`` what is known of open tracks. Between these and
one frame, ``costs`` says what a pair costs, ``assign`` which pairs become links; ``decide`` chooses
the pairs to compare and puts both together, and ``linker`` goes through the frames of a sequence. Files are ``tracks``' business.
"""
