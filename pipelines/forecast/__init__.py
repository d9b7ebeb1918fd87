"""What a run would take: a measured sample of it, the formula, and the words (``--dry-run``)."""
