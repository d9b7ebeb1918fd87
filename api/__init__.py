"""The HTTP service over an index, its page, and its Python client.

It promises that an answer comes from one snapshot and that a new version is served without a request
noticing. It may import every package but ``onepass``.
"""
