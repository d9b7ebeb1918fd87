"""Shared by all packages: errors, storage, locks, JSON models, progress.

It knows nothing of images, vectors or tracks, and promises that a path in an object store behaves
like a local one. It may import no other package of onepass.
"""
