"""AMI databases: opened by URL, read as a source; the extra ``database``."""

from __future__ import annotations

from cluster.errors import InputError

INSTALL = "pip install 'onepass[database]'"

try:
    import sqlalchemy  # noqa: F401
except ModuleNotFoundError:
    raise InputError(f"SQLAlchemy is not installed, which databases need; run: {INSTALL}") from None
