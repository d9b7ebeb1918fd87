"""What stands in an index folder, here or in an object store, and how a version appears in it.

It may import nothing else of ``index`` but ``metrics`` and ``vectors``.
"""
