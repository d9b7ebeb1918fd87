"""What a detector found in a source: its configuration, and the folder it is in."""
