"""Single bits flipped in the files of a run and its tracks: what reads a file names it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

import onepass
from common.errors import OnepassError, VerifyError
from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.indexes import embeddings
from tests.helpers.runs import write_run
from tracks.link import link_run
from tracks.linked_run import LinkedRun
from tracks.store import read_tracks

ROWS = 40
FLIPS = 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with tracks; its Parquet files of rows have no page checksums, as earlier ones."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    frames = [row // 2 for row in range(ROWS)]
    plan = {
        "image": [f"cam/{frame:04d}.jpg" for frame in frames],
        "detection_id": [f"d{row}" for row in range(ROWS)],
        "sequence": ["cam"] * ROWS,
        "frame": frames,
        **{name: [float(row) for row in range(ROWS)] for name in ("x1", "y1")},
        **{name: [float(row + 40) for row in range(ROWS)] for name in ("x2", "y2")},
    }
    write_run(path, plan, embeddings(ROWS), errors={5: "decode: no"})
    link_run(path)
    return path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def readers_of_rows(run: Path, scratch: Path) -> Iterator[Callable[[], object]]:
    """What reads the rows of a run; each returns all that it read or made."""

    def link() -> object:
        link_run(run, out=scratch / "tracks")
        return None  # at all: the rows are compared below

    def index() -> object:
        shutil.rmtree(scratch / "index", ignore_errors=True)
        snapshot = onepass.build_index(run, scratch / "index").snapshot
        return snapshot.rows.drop_columns(["run"]).to_pydict()

    yield lambda: Run.open(run).to_arrow().to_pydict()
    yield lambda: pa.Table.from_batches(Run.open(run).iter_batches()).to_pydict()
    yield lambda: Run.open(run).embeddings().tobytes()
    yield link
    yield index


def readers_of_tracks(run: Path) -> Iterator[Callable[[], object]]:
    yield lambda: read_tracks(run).to_pydict()
    yield lambda: LinkedRun.open(run).rows.to_pydict()


def flipped(file: Path, bit: int) -> bytes:
    """Flip a bit of a file; returns what it held."""
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    return whole


def test_no_flipped_bit_of_a_parquet_file_gives_other_rows(run: Path, tmp_path: Path) -> None:
    for read in (*readers_of_rows(run, tmp_path), *readers_of_tracks(run)):
        read()  # intact files can be read, and were
    files = sorted(run.rglob("*.parquet"))
    assert len(files) == 3
    chosen = np.random.default_rng(19)
    for _ in range(FLIPS):
        file = files[chosen.integers(len(files))]
        before = flipped(file, int(chosen.integers(8 * file.stat().st_size)))
        tracks = file.parent.name == "tracks"
        readers = readers_of_tracks(run) if tracks else readers_of_rows(run, tmp_path)
        for read in readers:
            with pytest.raises(VerifyError, match=file.name):
                read()
        file.write_bytes(before)


@pytest.mark.parametrize("name", ["detections/part-0001.parquet", "tracks/part-00000.parquet"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "flipped"])
def test_commands_name_a_damaged_file_in_one_line(
    run: Path, tmp_path: Path, name: str, damage: str
) -> None:
    file = run / name
    if damage == "flipped":
        flipped(file, 4 * file.stat().st_size)
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 1000 if damage == "cut" else 0])
    commands = [
        ("inspect", run, "--verify"),
        ("tracks", "export", run, "--format", "coco", "--out", tmp_path / "tracks.json"),
    ]
    if name.startswith("detections"):
        commands += [("link", run), ("index", "build", run, "--out", tmp_path / "index")]
        commands += [("probe", "train", run, "--labels", "sequence", "--out", tmp_path / "head.pt")]
    for command in commands:
        ended = here(*command)
        assert ended.returncode == OnepassError.exit_code, (command, ended.stderr)
        assert file.name in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("victim", ["features.h5", "hdf5/*.h5"])
def test_an_index_of_a_runs_hdf5_file_names_what_is_damaged(tmp_path: Path, victim: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        PIL.Image.new("RGB", (40, 40), (80 * number, 9, 9)).save(photos / f"{number}.png")
    out = tmp_path / "run"
    onepass.extract(photos, model="tiny", out=out, hdf5=True, executor="local", engine="eager")
    onepass.build_index(out / "features.h5", tmp_path / "whole")
    (file,) = out.glob(victim)
    before = flipped(file, 8 * file.read_bytes().rindex(b"\0\0\0\0"))
    with pytest.raises(OnepassError, match=file.name):
        onepass.build_index(out / "features.h5", tmp_path / "index")
    file.write_bytes(before)
    onepass.build_index(out / "features.h5", tmp_path / "again")
    if file.parent != out:  # HDF5 reads a missing shard as rows of NaN
        file.unlink()
        with pytest.raises(VerifyError, match=file.name):
            onepass.build_index(out / "features.h5", tmp_path / "missing")
