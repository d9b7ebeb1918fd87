"""The files of an index folder, here or in an object store, and the publishing of versions.

It may import nothing else of ``index`` but ``config``, ``metrics`` and ``vectors``.
"""
