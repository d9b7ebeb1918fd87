"""onepass: class and embedding of every image in one forward pass; index, tracks and search.

::

    import onepass

    run = onepass.extract("photos/", model="lite0", out="runs/first")
    index = onepass.build_index(run, "photos.index")
    index.search_images("query.jpg", k=5).to_pandas()
    onepass.link(run).to_pandas()

``import onepass`` is light: a name is imported when it is first used, so that neither torch nor Ray
nor FAISS is loaded before there is work for it. This package may import every other; none imports
it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from api.client import Client, ServiceError
    from common.errors import InputError, OnepassError, OnepassWarning, WorkError
    from migration.migrate import Migration
    from onepass.detecting import detect, open_detections
    from onepass.hits import Hits
    from onepass.indexing import build_index
    from onepass.linking import Tracks, link, open_tracks
    from onepass.migrating import migrate
    from onepass.runs import extract, open_run
    from onepass.search import Index, open_index
    from pipelines.config import ExtractConfig
    from pipelines.detected.config import DetectConfig
    from pipelines.detected.folder import Detections
    from pipelines.run import Run
    from tracks.association.options import LinkOptions

    __version__: str

_MODULE_OF = {
    "extract": "onepass.runs",
    "open_run": "onepass.runs",
    "Run": "pipelines.run",
    "ExtractConfig": "pipelines.config",
    "detect": "onepass.detecting",
    "open_detections": "onepass.detecting",
    "Detections": "pipelines.detected.folder",
    "DetectConfig": "pipelines.detected.config",
    "build_index": "onepass.indexing",
    "open_index": "onepass.search",
    "Index": "onepass.search",
    "Hits": "onepass.hits",
    "link": "onepass.linking",
    "open_tracks": "onepass.linking",
    "Tracks": "onepass.linking",
    "LinkOptions": "tracks.association.options",
    "migrate": "onepass.migrating",
    "Migration": "migration.migrate",
    "Client": "api.client",
    "ServiceError": "api.client",
    "OnepassError": "common.errors",
    "InputError": "common.errors",
    "WorkError": "common.errors",
    "OnepassWarning": "common.errors",
}

__all__ = [
    "Client",
    "DetectConfig",
    "Detections",
    "ExtractConfig",
    "Hits",
    "Index",
    "InputError",
    "LinkOptions",
    "Migration",
    "OnepassError",
    "OnepassWarning",
    "Run",
    "ServiceError",
    "Tracks",
    "WorkError",
    "__version__",
    "build_index",
    "detect",
    "extract",
    "link",
    "migrate",
    "open_detections",
    "open_index",
    "open_run",
    "open_tracks",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # late: it is slower than all of the above

        value: Any = version("onepass")
    elif name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module 'onepass' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
