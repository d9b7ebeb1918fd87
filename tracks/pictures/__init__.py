"""Tracks to look at: one picture a sequence, an annotated video, the doubtful links first."""
