"""Linking while a camera films: one frame per request, exactly once, over restarts.

``state`` is the state of a sequence between two frames, ``store`` the SQLite file it is kept in,
``transaction`` what is read and written there and its bounds, ``order`` whether a frame may follow
the last one, ``session`` the one transaction that links a frame. Nothing here depends on HTTP.
"""

from __future__ import annotations

from pathlib import Path

LINK_STATE = Path("live", "links.sqlite3")
"""Default path of the file, in the index folder; here, because ``onepass --help`` shows it."""
