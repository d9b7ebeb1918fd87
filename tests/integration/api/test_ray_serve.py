"""The contract with ``onepass serve INDEX --ray``: a real Ray, replicas, two shards."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pytest
import yaml

from api.client import Client, ServiceError
from api.ray_serve.shards import SEARCH_SECONDS
from index.build.version import build_index
from index.config import IndexConfig
from index.search.snapshot import Snapshot
from tests.helpers.api.contract_link import TestLink  # noqa: F401
from tests.helpers.api.contract_options import TestOptions, TestUnknownParameters  # noqa: F401
from tests.helpers.api.contract_search import TestDetections, TestSearch, TestTracks  # noqa: F401
from tests.helpers.api.contract_service import TestErrors, TestIndex  # noqa: F401
from tests.helpers.api.world import (
    World,
    check_hits,
    detection_url,
    error_of,
    free_port,
    nearest,
    wait_until_ready,
)
from tests.helpers.processes import processes_with_env

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[3]
START_SECONDS, END_SECONDS = 80.0, 60.0
MARK = "ONEPASS_TEST_OF_RAY_SERVE"


def until(done: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"{what} within {seconds:g} s"
        time.sleep(0.1)


class Served:
    """The command as a process, and all that it starts."""

    def __init__(self, command: Callable[[int], list[str]], log: Path, **env: str) -> None:
        self.port = free_port()
        self.mark = f"{MARK}={uuid4().hex}"
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *command(self.port)],
                env=os.environ | dict([self.mark.split("=")]) | {"RAY_ADDRESS": ""} | env,
                stderr=stderr,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            end = time.monotonic() + START_SECONDS
            while time.monotonic() < end and self.process.poll() is None:
                try:
                    wait_until_ready(http, 1)
                    return
                except (AssertionError, httpx.TransportError):
                    continue
        pytest.fail(f"not ready: {self.log.read_text()}")

    def pids(self, part: str) -> list[int]:
        return [pid for pid, name in processes_with_env(self.mark).items() if part in name]

    def kill(self) -> None:
        for pid in [self.process.pid, *processes_with_env(self.mark)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10)


def search_all(client: Client, world: World, seed: int) -> str:
    """Search for every row; an answer must hold the rows of all shards."""
    query = np.random.default_rng(seed).normal(size=world.model.feature_dim)
    try:
        answer = client.search(query, 100)
    except ServiceError as error:
        if (error.status, error.code) != (503, "unavailable"):
            raise
        return "unavailable"
    check_hits(answer.hits, nearest(world, query, 100))
    return "answered"


@pytest.fixture(scope="module")
def world(world: World) -> World:
    """The same rows in two segments."""
    base = world.index.parent
    opened = build_index([base / "first", base / "second"], base / "sharded", IndexConfig(shards=2))
    ids = [
        set(part.rows.select(["detection_id"])["detection_id"].to_pylist())
        for part in opened.segments
    ]
    assert len(ids) == 2
    assert all(ids)
    assert set.union(*ids) == set(world.all_ids)
    return replace(world, index=base / "sharded")


@pytest.fixture(scope="module")
def served(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    def command(port: int) -> list[str]:
        options = ("--ray", "--port", str(port), "--log-json")
        return ["-m", "onepass", "serve", str(world.index), *options]

    server = Served(command, tmp_path_factory.mktemp("served") / "log")
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def base_url(served: Served) -> str:
    return served.url


class TestLife:
    """Run in this order: the tests share the service, and the last one stops it."""

    def test_the_index_is_searched_by_two_shards(self, served: Served) -> None:
        assert len(served.pids(":Shard")) == 2
        assert len(served.pids(":Replica")) == 1

    def test_a_shard_that_hangs_is_a_503(
        self, served: Served, http: httpx.Client, client: Client, world: World
    ) -> None:
        (pid,) = served.pids("onepass-shard-0:Shard")
        os.kill(pid, signal.SIGSTOP)
        try:
            seconds = []
            for _ in range(2):  # the second time it is not waited for as long
                began = time.monotonic()
                answer = http.post("/v1/search", json={"detection_id": "a-0"}, timeout=60)
                seconds.append(time.monotonic() - began)
                assert error_of(answer, 503)[0] == "unavailable"
                assert answer.headers["retry-after"] == "5"
            assert seconds[0] < SEARCH_SECONDS + 5
            assert seconds[1] < 5
            assert http.get(detection_url("a-0")).status_code == 200  # it asks no shard
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: search_all(client, world, 1) == "answered", 30, "an answer")

    def test_a_shard_that_is_killed_comes_back(
        self, served: Served, client: Client, world: World
    ) -> None:
        (killed,) = served.pids("onepass-shard-1:Shard")
        with ThreadPoolExecutor(4) as pool:
            # Some searches are in that shard when it ends; later ones wait or are refused.
            under_way = [pool.submit(search_all, client, world, seed) for seed in range(40)]
            os.kill(killed, signal.SIGKILL)
            assert {search.result(60) for search in under_way} <= {"answered", "unavailable"}
        until(lambda: search_all(client, world, 2) == "answered", 60, "an answer")
        assert [search_all(client, world, seed) for seed in range(20)] == ["answered"] * 20
        (restarted,) = served.pids("onepass-shard-1:Shard")
        assert restarted != killed

    def test_a_version_with_another_number_of_segments(self, client: Client, world: World) -> None:
        base = world.index.parent
        query = np.random.default_rng(5).normal(size=world.model.feature_dim)
        for version, shards in (("v0002", 3), ("v0003", 1)):
            build_index([base / "first", base / "second"], world.index, IndexConfig(shards=shards))
            assert len(Snapshot.open(world.index).manifest.segments) == shards
            until(lambda v=version: client.index().version == v, 20, version)  # type: ignore[misc]
            answer = client.search(query, 100)
            assert answer.snapshot == version
            check_hits(answer.hits, nearest(world, query, 100))
            few = client.search(query, 4, where="label = 'class 1'")
            check_hits(few.hits, nearest(world, query, 4, label="class 1"))

    def test_sigterm_leaves_no_process(self, served: Served) -> None:
        assert len(processes_with_env(served.mark)) > 5  # Ray's own among them
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(END_SECONDS) == 0
        until(lambda: not processes_with_env(served.mark), 10, "every process ends")
        log = served.log.read_text()
        assert "Traceback" not in log
        assert "ending" in log


@pytest.mark.long
def test_the_config_of_a_rayservice_serves(world: World, tmp_path: Path) -> None:
    """As KubeRay applies it: all applications at once, and no process that watches them."""
    document = yaml.safe_load((ROOT / "deploy" / "rayservice" / "rayservice.yaml").read_text())
    config = yaml.safe_load(document["spec"]["serveConfigV2"])
    first, service = config["applications"]
    second = {"name": "onepass-shard-1", "args": first["args"] | {"shard": 1}}
    config["applications"] = [first, first | second, service]
    keys = tmp_path / "keys"
    keys.write_text("secret-key\n")
    keys.chmod(0o600)
    for application in config["applications"]:
        application["args"] |= {"index": str(world.index), "cpus": 0.1, "shards": 2, "replicas": 1}
    service["args"]["api_key_file"] = str(keys)

    def command(port: int) -> list[str]:
        config["http_options"] |= {"host": "127.0.0.1", "port": port}
        file = tmp_path / "serve.yaml"
        file.write_text(yaml.safe_dump(config))
        return ["-m", "ray.serve.scripts", "run", "--address", "local", str(file)]

    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    server = Served(command, tmp_path / "log", **token)
    try:
        server.wait()
        query = np.random.default_rng(3).normal(size=world.model.feature_dim)
        with Client(server.url, api_key="secret-key") as client:
            check_hits(client.search(query, 100).hits, nearest(world, query, 100))
        with Client(server.url) as client, pytest.raises(ServiceError) as refused:
            client.search(query, 1)
        assert refused.value.status == 401
        assert len(server.pids(":Shard")) == 2
    finally:
        server.kill()
