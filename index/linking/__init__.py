"""Contract 5, on arrays: which detection of an earlier frame each detection continues.

``options`` is what can be asked for, ``costs`` what a pair costs, ``assign`` which pairs become
links, ``linker`` goes through the frames of one sequence. Files are ``index.tracks``' business.
"""
