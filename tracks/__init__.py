"""Detections to individuals: linked over a whole sequence or frame by frame, judged and drawn.

It promises that two boxes of one frame are never one individual, and that a camera linked frame by frame has
the links of a run that is linked online. It may import ``index`` (for its vectors), ``pipelines``, ``cluster``
and ``common``.
"""
