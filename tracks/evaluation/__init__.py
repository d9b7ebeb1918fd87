"""Tracks compared with the truth: HOTA, IDF1, MOTA; and options fitted to labelled sequences."""
