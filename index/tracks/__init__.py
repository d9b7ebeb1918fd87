"""The tracks of a run: linking its detections, and what stands on the disk afterwards."""
