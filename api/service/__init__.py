"""What the service holds and does: the served index, batches of searches, browsing, live frames."""
