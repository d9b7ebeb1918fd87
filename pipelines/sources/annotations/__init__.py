"""Files of boxes as other tools write them, one module a format; ``read.py`` tells them apart."""
