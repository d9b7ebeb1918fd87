"""Linking while a camera films: one frame per request, exactly once, over restarts.

``state`` is the state of a sequence between two frames, ``store`` the SQLite file it is kept in,
``session`` the one transaction that links a frame. Nothing here depends on HTTP.
"""
