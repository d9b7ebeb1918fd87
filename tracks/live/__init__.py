"""Linking while a camera films: one frame a request, exactly once, over restarts.

``state`` is what is known of a sequence between two frames, ``store`` the SQLite file it is kept
in, ``session`` the one transaction that a frame is. Nothing here knows of HTTP.
"""
