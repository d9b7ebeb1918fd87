"""Search over finished runs: build a snapshot, open it, ask for neighbours, link tracks."""
