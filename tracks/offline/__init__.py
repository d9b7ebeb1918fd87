"""Linking all frames of a stored sequence at once, by what the sequence itself shows.

``looks`` shortens embeddings, ``scene`` holds the detections of one sequence, ``learn`` fits what the same
and different individuals look and move like (``distributions``), ``scores`` weighs links with it, ``solve``
finds the tracks of the highest score. ``merged_boxes`` finds boxes that hold several, through which ``bodies``
are followed, and ``merges`` links those who go in to those who come out; ``individuals`` joins tracks
until a known number is left. ``window`` does all that for a window, and
``linker``, which others call, for a sequence.
"""
