"""An S3 server (moto) that fails by rules, in a process of its own.

``running()`` starts it on two free ports: ``url`` fails by the rules of ``faults``, ``plain`` never
does and shows what is really stored. The process is ``python -m tests.helpers.s3`` and ends with the
one that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pyarrow import fs

START_SECONDS = 60
BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Rule:
    """A kind of fault, and the requests that it happens to.

    ``error``: answered with ``status``, not carried out. ``lost``: carried out, then answered with
    ``status``. ``stall``: no answer for ``seconds``, then the connection is closed. ``cut``: carried
    out, half of the body is sent, then the connection is closed. ``slow``: carried out ``seconds``
    later.
    """

    kind: Literal["error", "lost", "stall", "cut", "slow"]
    share: float = 1.0  # of the requests that match
    method: str = ""  # "PUT|POST"; empty: any
    key: str = ""  # a pattern that is searched in "bucket/key"; empty: any
    status: int = 503
    seconds: float = 2.0
    times: int | None = None  # at most; None: no limit


@dataclass(frozen=True)
class Store:
    """A running server with one empty bucket."""

    url: str
    plain: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a process reaches it, with its faults."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    @property
    def fs(self) -> fs.FileSystem:
        """A client without faults."""
        return fs.S3FileSystem(
            access_key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region=CREDENTIALS["AWS_DEFAULT_REGION"],
            endpoint_override=self.plain,
            allow_bucket_creation=True,
        )

    def faults(self, *rules: Rule, seed: int = 0) -> None:
        """Replace the rules, of which the first that matches counts, and reset the counts."""
        body = json.dumps({"rules": [asdict(rule) for rule in rules], "seed": seed}).encode()
        urllib.request.urlopen(f"{self.plain}/_faults", body, timeout=30).close()  # noqa: S310

    def counts(self) -> dict[str, int]:
        """Requests by method, and faults by kind, since ``faults`` was called."""
        with urllib.request.urlopen(f"{self.plain}/_faults", timeout=30) as answer:  # noqa: S310
            counts: dict[str, int] = json.load(answer)
        return counts

    def stored(self, under: str = "") -> list[str]:
        """Keys below ``under``."""
        selector = fs.FileSelector(f"{BUCKET}/{under}", recursive=True, allow_not_found=True)
        return sorted(
            info.path.removeprefix(f"{BUCKET}/")
            for info in self.fs.get_file_info(selector)
            if info.is_file
        )

    def read(self, key: str) -> bytes:
        """The bytes stored under ``key``."""
        with self.fs.open_input_stream(f"{BUCKET}/{key}") as stream:
            data: bytes = stream.read()
        return data

    def write(self, key: str, data: bytes) -> None:
        with self.fs.open_output_stream(f"{BUCKET}/{key}") as stream:
            stream.write(data)

    def upload(self, folder: Path, under: str) -> None:
        """Store every file of a local folder below ``under``."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.write(f"{under}/{file.relative_to(folder).as_posix()}", file.read_bytes())


@contextlib.contextmanager
def running() -> Iterator[Store]:
    """A server that lasts as long as the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.s3"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "the S3 server did not start; try python -m tests.helpers.s3"
            store = Store(*json.loads(line))
            store.fs.create_dir(BUCKET)
            yield store
        finally:
            process.kill()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Store]:
    """One server a session, because clients are kept by process."""
    with running() as store:
        yield store


@pytest.fixture
def s3(s3_server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The server without faults and with an empty bucket, in this process's environment."""
    s3_server.faults()
    s3_server.fs.delete_dir_contents(BUCKET)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    yield s3_server
    s3_server.faults()


# What follows runs in the server's process.

_Start = Callable[..., Callable[[bytes], object]]
_App = Callable[[dict[str, Any], _Start], Iterable[bytes]]


class _Faults:
    """WSGI application in front of moto that applies the rules."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self.set([], 0)

    def set(self, rules: list[Rule], seed: int) -> None:
        with self._lock:
            self._rules = rules
            self._left = [rule.times for rule in rules]
            self._chance = random.Random(seed)  # noqa: S311
            self.counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        rule = self._rule_for(environ["REQUEST_METHOD"], environ["PATH_INFO"].lstrip("/"))
        if rule is None:
            return self._app(environ, start)
        if rule.kind in ("stall", "slow"):
            time.sleep(rule.seconds)
        if rule.kind == "slow":
            return self._app(environ, start)
        if rule.kind == "stall":
            raise ConnectionAbortedError
        if rule.kind == "cut":
            return self._cut(environ, start)
        if rule.kind == "lost":
            for _ in self._app(environ, lambda *_: len):
                pass
        else:  # read the body first: a client that still sends sees a reset and not the answer
            left = int(environ.get("CONTENT_LENGTH") or 0)
            while left > 0 and (data := environ["wsgi.input"].read(min(left, 2**20))):
                left -= len(data)
        code = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied"}[rule.status]
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        start(f"{rule.status} {code}", [("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _cut(self, environ: dict[str, Any], start: _Start) -> Iterator[bytes]:
        head: list[Any] = []
        body = b"".join(self._app(environ, lambda *each: head.extend(each) or len))
        if len(body) > 1:
            start(*head)
            yield body[: len(body) // 2]
        raise ConnectionAbortedError

    def _rule_for(self, method: str, name: str) -> Rule | None:
        with self._lock:
            self.counts[method] += 1
            for number, rule in enumerate(self._rules):
                matches = re.fullmatch(rule.method or ".*", method) and re.search(rule.key, name)
                left = self._left[number]
                if not matches or left == 0 or self._chance.random() >= rule.share:
                    continue
                self._left[number] = None if left is None else left - 1
                self.counts[rule.kind] += 1
                return rule
        return None


def _serve() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            """Log nothing: there are thousands of requests."""

        def connection_dropped(self, *_: object) -> None:
            self.close_connection = True  # else it is kept for the next request

    moto: Any = DomainDispatcherApplication(create_backend_app)
    faults = _Faults(moto)

    def plain(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/_faults":
            answer: Iterable[bytes] = moto(environ, start)
            return answer
        if environ["REQUEST_METHOD"] == "POST":
            request = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            faults.set([Rule(**rule) for rule in request["rules"]], request["seed"])
        body = json.dumps(faults.counts).encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    servers = [
        make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
        for app in (faults, plain)
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps([f"http://127.0.0.1:{server.server_port}" for server in servers]), flush=True)
    sys.stdin.read()  # ends with the process that started this one
    os._exit(0)


if __name__ == "__main__":
    _serve()
