"""The front door: what people import, and the command line.

It promises to be light: ``import onepass`` loads neither torch nor Ray nor FAISS. It may import
every other package; none of them imports it.
"""

from __future__ import annotations
