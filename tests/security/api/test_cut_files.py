"""A file of the index is cut while a server has it mapped: reading it would end the process."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from api.service.mapped_files import MAX_SECONDS
from index.build.version import build_index
from tests.helpers.api.world import error_of, process, serving
from tests.helpers.runs import write_run

ROWS = 20_000  # so that most of each file is behind the first page


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut")
    vectors = np.random.default_rng(0).normal(size=(ROWS, 16)).astype(np.float32)
    ids = [f"d{row}" for row in range(ROWS)]
    plan = {"image": [f"{row}.jpg" for row in range(ROWS)], "detection_id": ids}
    run = write_run(folder / "run", plan, vectors)
    build_index([run.path], folder / "index")
    return folder / "index"


def search(http: httpx.Client, row: int = ROWS - 1) -> httpx.Response:
    return http.post("/v1/search", json={"detection_id": f"d{row}", "k": 3, "exact": True})


@pytest.mark.parametrize("name", ["vectors.faiss", "rows.arrow", "ids.npy"])
@pytest.mark.parametrize("kept", [0, 5000])
def test_a_cut_file_is_named_and_ends_nothing(
    built: Path, tmp_path: Path, name: str, kept: int
) -> None:
    index = shutil.copytree(built, tmp_path / "index")
    (file,) = index.glob(f"segments/*/{name}")
    whole = file.read_bytes()
    with process("-m", "onepass", "serve", str(index), "--port") as (child, http):
        right = search(http).json()["hits"]
        os.truncate(file, kept)
        time.sleep(2 * MAX_SECONDS)
        for answer in (
            search(http),
            search(http, 3),
            http.get("/v1/detections", params={"offset": ROWS - 5}),
            http.get(f"/v1/detections/d{ROWS - 1}/neighbours"),
            http.get("/readyz"),
        ):
            code, message = error_of(answer, 503)
            assert code == "index_damaged"
            assert name in message
            assert str(tmp_path) not in message
        assert http.get("/livez").status_code == 200
        assert child.poll() is None
        # Put back in place, it is served again: within half a minute, or at once on demand.
        with file.open("r+b") as stream:
            stream.write(whole)
        assert http.post("/v1/index/reload").status_code == 200
        assert search(http).json()["hits"] == right
        child.terminate()
        _, log = child.communicate(timeout=30)
    (line,) = [line for line in log.splitlines() if "was cut" in line]
    assert str(file.relative_to(index)) in line
    assert "restore it" in line


def test_other_changes_of_files_are_no_damage(built: Path, tmp_path: Path) -> None:
    """A version that is served stays whole when its files are replaced, removed or appended to."""
    index = shutil.copytree(built, tmp_path / "index")
    with serving(index) as http:
        right = search(http).json()["hits"]
        rows, vectors, ids = (
            next(index.glob(f"segments/*/{name}"))
            for name in ("rows.arrow", "vectors.faiss", "ids.npy")
        )
        rows.unlink()
        (tmp_path / "short").write_bytes(b"short")
        (tmp_path / "short").replace(vectors)
        with ids.open("ab") as stream:
            stream.write(b"more")
        time.sleep(0.1)
        assert search(http).json()["hits"] == right


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV])
def test_a_server_that_a_signal_ends_says_where_it_was(built: Path, number: Any) -> None:
    with process("-m", "onepass", "serve", str(built), "--port") as (child, _):
        child.send_signal(number)
        _, log = child.communicate(timeout=30)
        assert child.returncode == -number
    assert "Fatal Python error" in log
    assert "server.py" in log
