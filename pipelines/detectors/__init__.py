"""Images → boxes: ``network`` builds detectors and loads their weights, ``detector`` calls one on an image,
``blocks`` answers a few images at a time, ``detect`` is what others call.
"""
