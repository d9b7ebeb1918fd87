"""What a running extraction has done: counted, written down as it happens, and shown afterwards.

Nothing depends on it: a run is right without its events. It may import the contracts.
"""
