"""What the service does: the served index, batches of searches, browsing, live frames."""
