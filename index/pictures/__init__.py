"""What pictures are made of: boxes, labels and paths on an image, and sheets of crops."""
