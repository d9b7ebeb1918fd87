"""Extraction from pixels to Parquet and HDF5, in this process, on one shared Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.images.reader
from common.errors import FolderError, RunError, VerifyError
from common.json_models import read_json
from onepass.cli.main import main
from pipelines.config import ExtractConfig, Progress
from pipelines.detections import BOX, complete
from pipelines.engines.embed import Embedder
from pipelines.extract import Outcome, extract
from pipelines.images.decode import decode_rows
from pipelines.images.formats import decode
from pipelines.images.pixels import read
from pipelines.model_info import Preprocess
from pipelines.models.scores import softmax
from pipelines.outputs import finish
from pipelines.request import Request, fingerprint_inputs, lock_run
from pipelines.run import Run
from pipelines.sources.read import read_source
from tests.helpers.pictures import BAD_ERRORS, BAD_FILES, bad_folder, photo_folder
from tests.helpers.runs import make_config

PHOTOS = 60
BOXES = ((None,) * 4, (10, 20, 110, 120), (200.5, 30.25, 300.75, 200))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty photos, three rows each: the whole image and two boxes."""
    folder = photo_folder(tmp_path_factory.mktemp("photos"), PHOTOS)
    rows = ["image,x1,y1,x2,y2,note"]
    for number, photo in enumerate(sorted(folder.rglob("*.jpg"))):
        for at, box in enumerate(BOXES):
            corners = ",".join("" if value is None else str(value) for value in box)
            rows.append(f"{photo.relative_to(folder)},{corners},n{number}-{at}")
    file = folder / "boxes.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def exact_config(manifest: Path, **fields: Any) -> ExtractConfig:
    return make_config(**({"source": manifest, "logits": True, "hdf5": True} | fields))


@pytest.fixture(scope="module")
def exact(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One float32 run with everything in it, and what was reported on the way."""
    seen: list[Progress] = []
    out = tmp_path_factory.mktemp("runs") / "exact"
    outcome = extract(exact_config(manifest), out, report=seen.append)
    columns = pq.read_schema(outcome.run.files()[0]).names
    return SimpleNamespace(
        outcome=outcome, run=outcome.run, out=out, seen=seen, table=outcome.run.to_arrow(columns)
    )


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    assert pa.types.is_fixed_size_list(array.type)
    return np.asarray(array.flatten()).reshape(len(array), array.type.list_size)


def test_every_planned_row_is_written(exact: SimpleNamespace) -> None:
    counts = exact.run.manifest.rows
    assert (counts.planned, counts.written, counts.failed) == (3 * PHOTOS, 3 * PHOTOS, 0)
    assert exact.table["row_id"].to_pylist() == list(range(3 * PHOTOS))
    assert not exact.outcome.already_finished
    assert exact.outcome.first_answer_seconds > 0
    assert exact.run.verify() == 3 * PHOTOS
    assert exact.seen[0].stage == "starting"
    assert exact.seen[-1] == Progress("checking", 3 * PHOTOS, 3 * PHOTOS)
    assert max(p.done for p in exact.seen if p.stage == "extracting") > 0
    assert not (exact.out / "checkpoint").exists()


def test_ray_goes_through_many_files_with_the_same_result(
    exact: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "FILES_HERE", 0)
    monkeypatch.setattr(finish, "_FILES_A_TASK", 5)
    manifest = exact.run.manifest
    again = finish.describe_run(
        exact.out,
        exact.run.root,
        read_json(exact.out / "request.json", Request),
        planned=3 * PHOTOS,
        seconds=manifest.seconds,
        session=manifest.session,
    )
    assert again == manifest


def test_given_columns_pass_and_missing_ones_are_filled(exact: SimpleNamespace) -> None:
    table = exact.table
    names = [f"n{number}-{at}" for number in range(PHOTOS) for at in range(3)]
    assert table["note"].to_pylist() == names
    night = [f"night{number // (PHOTOS // 2)}" for number in range(PHOTOS) for _ in range(3)]
    assert table["sequence"].to_pylist() == night
    frames = [number % (PHOTOS // 2) for number in range(PHOTOS) for _ in range(3)]
    assert table["frame"].to_pylist() == frames
    boxes = list(zip(*(table[name].to_pylist() for name in BOX), strict=True))
    assert boxes == list(BOXES) * PHOTOS


def test_answers_equal_the_model_on_the_same_crop(exact: SimpleNamespace) -> None:
    embedder = Embedder.load(exact.run.manifest.model)
    stored, logits = matrix(exact.table["embedding"]), matrix(exact.table["logits"])
    assert len(np.unique(stored, axis=0)) == 3 * PHOTOS
    for row in exact.table.drop_columns(["embedding", "logits"]).to_pylist():
        embedded = embedder.embed_bytes(
            read(exact.run.image_path(row["image"])), box=tuple(row[name] for name in BOX)
        )
        at = row["row_id"]
        np.testing.assert_allclose(stored[at], embedded.embedding, rtol=1e-5, atol=1e-5)
        assert row["label_index"] == embedded.label_index == logits[at].argmax()
        assert row["label"] == embedded.label == f"tiny {embedded.label_index}"
        assert row["score"] == pytest.approx(embedded.score, abs=1e-5)


def test_topk_is_sorted_and_logits_give_the_score(exact: SimpleNamespace) -> None:
    probabilities = softmax(matrix(exact.table["logits"]))
    scores = exact.table["score"].to_numpy()
    np.testing.assert_allclose(probabilities.max(1), scores, atol=1e-6)
    for row, best in enumerate(exact.table["topk"].to_pylist()):
        assert len(best) == 5
        listed = [entry["score"] for entry in best]
        assert listed == sorted(listed, reverse=True)
        assert listed[0] == scores[row]
        assert best[0]["label_index"] == exact.table["label_index"][row].as_py()
        for entry in best:
            expected = probabilities[row, entry["label_index"]]
            assert entry["score"] == pytest.approx(expected, abs=1e-6)
            assert entry["label"] == f"tiny {entry['label_index']}"


READERS = """
import sys
import duckdb, pandas, polars, pyarrow as pa, pyarrow.dataset
folder, rows = sys.argv[1], int(sys.argv[2])
files = f"{folder}/*.parquet"
table = pa.dataset.dataset(folder).to_table().sort_by("row_id")
assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32), table.schema
want = table["embedding"].combine_chunks().flatten().to_numpy().reshape(rows, 32)
ducks = duckdb.sql(f"select embedding, error from '{files}' order by row_id").fetchall()
bears = polars.read_parquet(files).sort("row_id")
assert bears["embedding"].dtype == polars.Array(polars.Float32, 32), bears.schema
cats = pandas.read_parquet(folder).sort_values("row_id")
for got in ([e for e, _ in ducks], bears["embedding"].to_list(), cats["embedding"].tolist()):
    assert len(got) == rows
    for a, b in zip(got, want):
        assert len(a) == 32
        assert all(x == y or (x != x and y != y) for x, y in zip(a, b))
errors = table["error"].to_pylist()
assert [e for _, e in ducks] == errors == bears["error"].to_list()
assert [isinstance(e, str) for e in cats["error"]] == [e is not None for e in errors]
assert "ray" not in sys.modules
"""


def read_with_everything(run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READERS, run.path / "detections", str(run.manifest.rows.written)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_parquet_is_plain_to_four_readers(exact: SimpleNamespace) -> None:
    read_with_everything(exact.run)


def assert_hdf5_equals_parquet(run: Path, table: pa.Table) -> None:
    with h5py.File(run / "features.h5") as file:
        assert file["features"].is_virtual
        order = np.argsort(file["row_id"][:])
        valid = file["valid"][:][order]
        assert (file["row_id"][:][order] == table["row_id"].to_numpy()).all()
        assert valid.tolist() == table["error"].is_null().to_pylist()
        ids = [name.decode() for name in file["detection_id"][:][order]]
        assert ids == table["detection_id"].to_pylist()
        for name, column in (("features", "embedding"), ("logits", "logits")):
            if column in table.column_names:
                stored = file[name][:][order]
                assert stored.dtype == np.float32
                assert stored.tobytes() == matrix(table[column]).tobytes()
                assert np.isnan(stored[~valid]).all()
                assert np.isfinite(stored[valid]).all()
        assert np.isnan(file["score"][:][order][~valid]).all()
        assert (file["label_index"][:][order][~valid] == -1).all()
        good = table.filter(pa.array(valid))
        assert (file["score"][:][order][valid] == good["score"].to_numpy()).all()
        assert (file["label_index"][:][order][valid] == good["label_index"].to_numpy()).all()


def test_hdf5_equals_parquet_here_and_elsewhere(exact: SimpleNamespace, tmp_path: Path) -> None:
    assert_hdf5_equals_parquet(exact.out, exact.table)
    first, elsewhere = tmp_path / "first", tmp_path / "deep" / "elsewhere"
    shutil.copytree(exact.out, first)
    elsewhere.parent.mkdir()
    first.rename(elsewhere)
    assert_hdf5_equals_parquet(elsewhere, exact.table)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_finished_run_is_left_alone(exact: SimpleNamespace, manifest: Path) -> None:
    before = state(exact.out)
    again: Outcome = extract(exact_config(manifest), exact.out)
    assert again.already_finished
    assert again.run.manifest == exact.run.manifest
    assert state(exact.out) == before


def test_another_command_is_refused_and_told_what_differs(
    exact: SimpleNamespace, manifest: Path
) -> None:
    before = state(exact.out)
    other = exact_config(manifest, input_size=64, precision="bf16", hdf5=False)
    with pytest.raises(RunError) as caught:
        extract(other, exact.out)
    message = str(caught.value)
    for part in (
        "hdf5: then True, now False",
        "input_size: then None, now 64",
        "precision: then 'fp32', now 'bf16'",
    ):
        assert part in message
    assert "logits" not in message
    assert state(exact.out) == before


def test_one_changed_byte_is_found_and_named(exact: SimpleNamespace, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(exact.out, copy)
    run = Run.open(copy)
    assert run.verify() == 3 * PHOTOS
    victim = run.files()[1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(VerifyError, match=victim.name):
        run.verify()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The folder of bad files through the command line; its words and its run."""
    folder = bad_folder(tmp_path_factory.mktemp("bad"))
    out = tmp_path_factory.mktemp("runs") / "bad"
    words: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["extract", str(folder / "rows.csv"), "--model", "tiny", "--out", str(out)]
        patch.setattr(sys, "argv", ["onepass", *arguments, "--hdf5"])
        patch.setattr("onepass.cli.extract.echo", words.append)
        with pytest.raises(SystemExit) as exited:
            main()
    run = Run.open(out)
    table = run.to_arrow(pq.read_schema(run.files()[0]).names)
    return SimpleNamespace(code=exited.value.code, words=words, run=run, out=out, table=table)


def test_bad_files_become_rows_with_errors(bad: SimpleNamespace) -> None:
    rows = bad.table.to_pylist()
    assert len(rows) == len(BAD_FILES) + 5
    counts = bad.run.manifest.rows
    assert (counts.written, counts.failed) == (len(rows), sum(BAD_ERRORS.values()))
    assert bad.run.manifest.errors == BAD_ERRORS
    for row in rows:
        embedding = np.array(row["embedding"])
        if row["error"] is None:
            assert np.isfinite(embedding).all()
            assert row["label"].startswith("tiny ")
        else:
            assert row["image"] in row["error"]
            assert np.isnan(embedding).all()
            assert row["label"] is row["label_index"] is row["score"] is row["topk"] is None
    answered = {row["image"] for row in rows if row["error"] is None}
    odd = {"one_pixel.png", "wide.png", "cmyk.jpg", "deep.png", "moving.gif"}
    assert answered == odd | {"good.jpg"}
    assert {row["night"] for row in rows} == {1}


def test_the_command_counts_the_errors_at_its_end(bad: SimpleNamespace) -> None:
    assert bad.code == 0
    assert "14 rows, 7 with errors" in bad.words[0]
    for kind, count in BAD_ERRORS.items():
        assert f"  {count} x {kind}" in bad.words


def test_failed_rows_are_nan_in_hdf5_and_plain_in_parquet(bad: SimpleNamespace) -> None:
    assert_hdf5_equals_parquet(bad.out, bad.table)
    read_with_everything(bad.run)


def test_a_precision_below_float32_is_audited(bad: SimpleNamespace, exact: SimpleNamespace) -> None:
    assert exact.run.manifest.precision_audit is None
    audit = bad.run.manifest.precision_audit
    if bad.run.manifest.precision == "fp32":
        assert audit is None
    else:
        assert 1 <= audit.rows <= 64
        assert 0.99 < audit.cosine_min <= audit.cosine_mean <= 1 + 1e-9
        assert 0 <= audit.top1_agreement <= 1


def test_a_folder_is_a_source(tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", 6)
    (folder / "notes.txt").write_text("not an image")
    outcome = extract(make_config(source=folder, engine="auto"), tmp_path / "run")
    assert outcome.skipped_files == {".txt": 1}
    table = outcome.run.to_arrow(["image", "sequence", "frame", "x1", "error"])
    assert table["image"].to_pylist() == [f"night{n % 2}/{n:04d}.jpg" for n in (0, 2, 4, 1, 3, 5)]
    assert table["sequence"].to_pylist() == ["night0"] * 3 + ["night1"] * 3
    assert table["frame"].to_pylist() == [0, 1, 2] * 2
    assert table["x1"].null_count == table["error"].null_count == 6
    assert not (tmp_path / "run" / "features.h5").exists()


def test_an_image_with_several_boxes_is_decoded_once(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read_source(str(manifest))
    shuffled = plan.table.take(np.random.default_rng(0).permutation(plan.table.num_rows))
    table = complete(shuffled.select(["image", *BOX]), where="shuffled rows")
    calls = []

    def counted(data: bytes, **options: Any) -> Any:
        calls.append(len(data))
        return decode(data, **options)

    monkeypatch.setattr(pipelines.images.reader, "decode", counted)
    preprocess = Preprocess(input_size=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
    pixels = decode_rows(table, plan.root, {"pixels": preprocess})
    assert pixels.num_rows == 3 * PHOTOS
    assert pixels["error"].null_count == 3 * PHOTOS
    assert len(calls) == PHOTOS


def test_two_extracts_on_one_folder_the_second_is_refused(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    plan = read_source(str(manifest))
    config = exact_config(manifest.resolve())
    with lock_run(out, config, fingerprint_inputs(plan.table, config)) as claimed:
        assert claimed.earlier is None
        (out / "plan").mkdir()
        (out / "plan" / "part-00000.parquet").write_bytes(b"the first one's plan")
        before = state(out)
        for _ in range(2):
            with pytest.raises(FolderError, match="another onepass extract is at work on it"):
                extract(exact_config(manifest), out)
        assert state(out) == before
    assert not out.exists()
