"""Databases of the AMI data companion: a run is compared with one, and written back to it.

It promises that nothing is written to a detection whose image or box has changed, and that an
interrupted write can be continued. It may import ``tracks``, ``index``, ``pipelines``, ``cluster``
and ``common``.
"""

from __future__ import annotations

import pipelines.sources.database  # noqa: F401  (says what to install where SQLAlchemy is missing)
