"""AMI databases: opened by URL, read as a source; the extra ``database``."""

from __future__ import annotations

from common.extras import optional

optional("sqlalchemy", "database")
