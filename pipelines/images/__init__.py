"""From a name to pixels: open an image or a frame, decode it, crop the box, resize.

It promises uint8 RGB of the network's input size, upright, of exactly the named frame, and an
``ImageError`` where that is not possible. It may import the contracts.
"""
