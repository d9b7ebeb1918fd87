"""What the benchmarks of tracking share: clips with truth, onepass' presets, other trackers, made scenes."""
