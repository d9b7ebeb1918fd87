"""Images in, one forward pass, class and embedding out: a run.

The contracts stand at the top: the table of detections, the run folder, the request, what a model is.
The folders are the stages, in the order in which a row meets them. It promises that every planned row
is written exactly once, whatever dies, and that a row that cannot be answered says why.
It may import ``cluster`` and ``common``.
"""
