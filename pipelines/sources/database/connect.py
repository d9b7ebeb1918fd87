"""A database by its URL: named without secrets, opened to read or to write, errors of one line.

A URL may hold a password, so its text is never repeated. Runs and messages show ``name_of``: kind,
host, port and database, without the user, so that one role may read and another write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

import pipelines.sources.database  # noqa: F401  (names the extra where SQLAlchemy is missing)
from common.errors import InputError, OnepassError, SourceError, WorkError
from common.extras import optional

KINDS = "sqlite:///path/ami.db or postgresql+psycopg://user@host/name"

WAIT_SECONDS = 5  # for a server to answer, and for others to release their locks

# SQLSTATEs of errors that a retry does not change.
_REFUSED = frozenset({"42501", "25006", "42P01", "42703", "42804", "22001"})


def parse(url: str) -> sa.URL:
    """Parse a URL and set the driver that onepass uses, whichever it names.

    Raises:
        SourceError: not the URL of a supported database; the text is not repeated.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise SourceError(
            f"the URL of a database cannot be read (it is not shown, it may hold a password); give {KINDS}"
        ) from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise SourceError(f"{backend}://…: sources with :// are databases; give {KINDS}")
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:"):
            raise SourceError(f"sqlite needs the path of a file: {KINDS}")
        return sa.URL.create("sqlite", database=str(Path(str(parsed.database)).resolve()))
    if "@" in f"{parsed.host}{parsed.database}":
        raise SourceError(
            "the URL of a database has an @ too many (it is not shown, it may hold a password); "
            "write @ in a password as %40"
        )
    return parsed.set(drivername="postgresql+psycopg")


def name_of(url: str) -> str:
    """The canonical name of a URL's database, without user and password.

    Raises:
        SourceError: as ``parse``.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///{parsed.database}"
    port = parsed.port or parsed.query.get("port", 5432)
    shown = sa.URL.create(
        "postgresql",
        host=parsed.host or str(parsed.query.get("host", "")) or None,
        port=int(str(port)) if str(port).isdigit() else None,
        database=parsed.database or parsed.username,
    )
    return shown.render_as_string(hide_password=True)


def folder_of(url: str) -> Path:
    """Where relative image paths start: the folder of an SQLite file, else the working directory."""
    parsed = parse(url)
    return (
        Path(str(parsed.database)).parent if parsed.get_backend_name() == "sqlite" else Path.cwd()
    )


@contextmanager
def open_database(url: str, *, write: bool = False) -> Iterator[sa.Connection]:
    """A connection; one to read with is read-only and sees one state of the database.

    What was not committed when the block ends is rolled back.

    Raises:
        SourceError: the URL, no such file or server, a wrong password, not a database.
        InputError: the database is read-only, or does not permit it.
        WorkError: it is locked, or fails otherwise.
    """
    name, parsed = name_of(url), parse(url)
    engine = _engine(parsed, write)
    try:
        try:
            connection = engine.connect()
        except SQLAlchemyError as error:
            reason = _one_line(error, parsed)
            hint = "" if "authentication" not in reason else _PASSWORD
            raise SourceError(f"{name} cannot be opened: {reason}{hint}") from None
        try:
            with connection:
                yield connection
        except SQLAlchemyError as error:
            raise _to_onepass_error(error, name, parsed, write) from None
    finally:
        engine.dispose()


_PASSWORD = "; give the password in PGPASSWORD, ~/.pgpass or the URL"  # noqa: S105 - a sentence


def _engine(parsed: sa.URL, write: bool) -> sa.Engine:
    common: dict[str, Any] = {"hide_parameters": True, "json_serializer": _json}
    if parsed.get_backend_name() == "sqlite":
        file = Path(str(parsed.database))
        if not file.is_file():
            raise SourceError(f"{file}: no such file; give {KINDS}")
        uri = f"file:{quote(str(file))}?mode={'rw' if write else 'ro'}"  # neither creates a file

        def connect() -> sqlite3.Connection:
            # No isolation level: BEGIN is ours, see below.
            connection = sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
            # SQLite accepts any bytes as text; invalid UTF-8 must not fail the read.
            connection.text_factory = lambda text: text.decode(errors="replace")
            return connection

        engine = sa.create_engine(parsed, creator=connect, **common)
        # Python's own BEGIN comes only before the first UPDATE: rows of an earlier SELECT may have
        # changed by then, and several SELECTs of a reader would see several states.
        begin = "BEGIN IMMEDIATE" if write else "BEGIN"
    else:
        one_state = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        optional("psycopg", "database")
        engine = sa.create_engine(
            parsed,
            connect_args={"connect_timeout": WAIT_SECONDS},
            execution_options={} if write else one_state,
            **common,
        )
        # Times come as text, which must not depend on the server's settings.
        begin = (
            f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'; SET LOCAL datestyle = 'ISO'; "
            "SET LOCAL timezone = 'UTC'"
        )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _json(value: Any) -> str:
    """JSON with as few digits as a float32 needs."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _one_line(error: SQLAlchemyError, parsed: sa.URL) -> str:
    """The driver's message in one line, without SQLAlchemy's statement and the password."""
    message = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
    return message.replace(parsed.password, "***") if parsed.password else message


def _to_onepass_error(
    error: SQLAlchemyError, name: str, parsed: sa.URL, write: bool
) -> OnepassError:
    reason = _one_line(error, parsed)
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN):
            return SourceError(f"{name} cannot be read: {reason}; give {KINDS}")
        refused = code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
    else:
        refused = getattr(cause, "sqlstate", None) in _REFUSED
    if refused:
        return InputError(f"{name} refuses it: {reason}")
    hint = "what was committed stays, the same command continues" if write else "try again"
    return WorkError(f"{name}: {reason}; {hint}")
