"""Linking all frames of a stored sequence at once, by what the sequence itself shows.

``looks`` shortens embeddings, ``scene`` holds the detections of one sequence, ``learn`` fits what the same
and different individuals look and move like (``distributions``), ``scores`` weighs links with it, ``solve``
finds the tracks of the highest score, and ``linker`` is what others call.
"""
