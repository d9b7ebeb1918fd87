"""Where work runs: the Ray session, job submission, and the errors every layer raises.

Nothing in this package knows about pixels, models or vectors, and it imports none of
the other packages.
"""
