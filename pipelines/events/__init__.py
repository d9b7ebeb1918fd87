"""What a running extraction does, block by block: reported, written down, added up, drawn.

Nothing here decides what a run holds. The board's process must not import torch, so no module
that it needs may.
"""
