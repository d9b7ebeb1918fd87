"""Where work runs: this process, children of it, or Ray; and submitting a command to a cluster.

It promises that the same function over many items gives the same results wherever it runs, and that
a Ray that is started here is ended here. It knows nothing of images, vectors or tracks. It may
import ``common``.
"""
