"""Pictures of tracks and of neighbours, with Pillow and numpy alone.

So that a server or a laptop without a plotting stack can draw them.
"""
