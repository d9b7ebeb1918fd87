"""Detections to individuals: linked frame by frame, stored beside the run, judged and drawn.

It promises one-to-one links of the least total cost, the same whether a run is linked afterwards or a
camera frame by frame. It may import ``index`` (for its vectors), ``pipelines``, ``cluster``
and ``common``.
"""
