"""Requests, answers and errors of the HTTP API as pydantic models.

No field holds a path on the server's disk: an image is given by its file name, and its pixels by a
route.
"""

MAX_K = 1000
MAX_DIM = 65_536  # numbers of a vector
MAX_BATCH = 256  # queries
MAX_IDS = 10_000
MAX_EXAMPLES = 1000  # positive, and as many negative
MAX_COLUMNS = 1000  # named by with_payload
MAX_OFFSET = 2**31 - 1  # Arrow cannot slice at larger offsets
MAX_PAGE = 1000
MAX_DETECTIONS = 1000  # of a frame
