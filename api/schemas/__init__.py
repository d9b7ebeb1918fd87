"""Requests, answers and errors of the HTTP API as pydantic models.

No field holds a path on the server's disk: an image is given by its file name, and its pixels by a
route.
"""
