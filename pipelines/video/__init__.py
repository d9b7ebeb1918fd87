"""Videos: which clips a folder holds, and their frames by number."""
