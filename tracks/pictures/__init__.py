"""Tracks to look at: one picture per sequence, an annotated video, the doubtful links first."""
