"""Where the rows of an index come from: finished runs, and files of vectors.

Each is a ``VectorSource``, the contract in ``source``. A build knows nothing else of them.
"""
