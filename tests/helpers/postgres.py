"""A PostgreSQL of the tests' own: its data in a temporary folder, on a free port, ended by its id.

``trusted`` may do everything and needs no password; every other role needs its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

START_SECONDS = 60

HBA = """
host all trusted 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; Debian keeps them off the PATH."""
    files = [Path(file).resolve() for file in map(shutil.which, ("initdb", "postgres")) if file]
    files += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    for folder in (file.parent for file in files):
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    return None


@dataclass
class Server:
    """A running server."""

    port: int

    def url(self, database: str, role: str = "trusted") -> str:
        """SQLAlchemy's URL; ``role`` may be ``name:password``."""
        return f"postgresql+psycopg://{role}@127.0.0.1:{self.port}/{database}"

    def do(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as ``trusted``, each committed."""
        with self.connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def role(self, database: str, name: str, *grants: str) -> str:
        """The URL of a new role that may read, and whose password is s3cret.

        Args:
            database: where it may read; its name is part of the role's.
            name: of the role.
            grants: what else it may, as ``GRANT UPDATE ON detections``.
        """
        role = f"{name}_{database}"
        self.do(
            f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
            *(f"{grant} TO {role}" for grant in grants),
            database=database,
        )
        return self.url(database, f"{role}:s3cret")

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="trusted", dbname=database, autocommit=True
        )


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Start a server with the programs in ``folder`` and end it with the block."""
    user = None
    if os.geteuid() == 0:  # which PostgreSQL refuses to be
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    # Not pytest's own folders: only their owner may enter those.
    base = Path(tempfile.mkdtemp(prefix="onepass-postgres-"))
    base.chmod(0o755)
    data = base / "data"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plain = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    try:
        subprocess.run(
            [folder / "initdb", "-D", data, "-U", "trusted", "-E", "UTF8", "--no-sync"],
            user=user,
            env=plain,
            cwd=base,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=START_SECONDS,
        )
        (data / "pg_hba.conf").write_text(HBA)
        command = [
            *(folder / "postgres", "-D", data, "-p", str(port), "-F"),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
        ]
        with (
            (base / "log").open("wb") as log,
            subprocess.Popen(
                command, user=user, env=plain, cwd=base, stdout=log, stderr=log
            ) as process,
        ):
            try:
                server = Server(port)
                _wait_for(server, process, base / "log")
                yield server
            finally:
                process.send_signal(signal.SIGINT)  # ends its connections too
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
    finally:
        shutil.rmtree(base)


def _wait_for(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(psycopg.OperationalError), server.connect():
            return
        time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
