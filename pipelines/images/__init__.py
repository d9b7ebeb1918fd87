"""From a name to pixels: open an image or a frame, decode it, crop the box, resize.

It promises uint8 RGB of the size the network asks for, upright, the frame that was named, and an
``ImageError`` where it cannot keep that. It may import the contracts.
"""
