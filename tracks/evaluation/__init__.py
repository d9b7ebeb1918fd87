"""Tracks held against a truth: HOTA, IDF1, MOTA; and options fitted to labelled sequences."""
