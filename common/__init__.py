"""Common ground: errors, storage, locks, JSON models, progress.

What every other package needs and nobody would look for in one of them. It knows nothing of images,
vectors or tracks, and promises that a path of an object store behaves as one of this machine.
It may import no other package of onepass.
"""
