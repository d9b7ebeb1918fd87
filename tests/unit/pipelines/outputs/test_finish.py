"""The end of a run: every row is counted before anything is called finished."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.errors import VerifyError
from pipelines.outputs.finish import data_files, describe_run
from pipelines.run import Run, RunManifest, SessionInfo
from tests.helpers.runs import TINY_FACTS, make_config, request_of, write_run

ROWS = 40
SESSION = SessionInfo(rows=ROWS, actors=1, gpus=0, rows_a_second=None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    errors = {3: "missing: gone [a]", 4: "missing: gone [b]", 9: "decode: cut [c]"}
    names = {"image": [f"{n:02d}.jpg" for n in range(ROWS)]}
    vectors = np.random.default_rng(0).normal(size=(ROWS, 8))
    return write_run(tmp_path / "run", names, vectors, errors=errors, files=40)


def describe(run: Run, planned: int = ROWS) -> RunManifest:
    counted: list[int] = []
    request = request_of(make_config(), TINY_FACTS)
    made = describe_run(
        run.path,
        run.path,
        request,
        planned=planned,
        seconds=1.0,
        session=SESSION,
        done=counted.append,
    )
    assert counted == [16, 32, 40]  # sixteen files at a time
    return made


def test_rows_errors_and_hashes_are_those_of_the_files(run: Run) -> None:
    made = describe(run)
    assert (made.rows.planned, made.rows.written, made.rows.failed) == (ROWS, ROWS, 3)
    assert made.errors == {"missing": 2, "decode": 1}
    assert made.files == run.manifest.files


def test_a_row_that_stands_twice_is_an_error(run: Run) -> None:
    file = data_files(run.path)[7]
    table = pq.read_table(file)
    pq.write_table(table.take([0, 0]), file)
    with pytest.raises(VerifyError, match="0 planned rows are missing and 1 stand twice"):
        describe(run)


def test_a_row_that_is_missing_is_an_error(run: Run) -> None:
    with pytest.raises(VerifyError, match="1 planned rows are missing and 0 stand twice"):
        describe(run, ROWS + 1)
