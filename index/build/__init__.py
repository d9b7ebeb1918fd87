"""Build and change: runs to segments, segments to a version; add, delete, compact, promote.

It may import ``index.search`` and ``index.storage``.
"""
