"""Indexes of vectors that were made elsewhere: their columns, names and ids, and what is refused."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError, OnepassWarning, SnapshotError
from index.build.update import add_runs, compact
from index.build.version import build_index
from index.search.columns import count_values
from index.search.filters import Filter
from migration.candidate import check_replaceable
from onepass import indexing as api
from pipelines.outputs.hdf5 import _write_shard
from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.indexes import DIM, embeddings, make_run, tree
from tests.helpers.refusals import only_error
from tests.helpers.vector_files import arrow_file, embedding, npy, parquet

ROWS = 30
IDS = [f"d{row}" for row in range(ROWS)]
VECTORS = embeddings(ROWS)


def table(**columns: Any) -> pa.Table:
    return pa.table({"detection_id": IDS, "embedding": embedding(VECTORS), **columns})


def file(folder: Path, name: str = "x.parquet", **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(table(**columns), folder / name)
    return folder / name


def refused(path: Path, match: str, **options: Any) -> None:
    out = path.parent / "new.index"
    with pytest.raises(InputError, match=match) as caught:
        build_index([path], out, **options)
    assert "\n" not in str(caught.value)
    assert not [name for name in tree(out) if not name.startswith(".")]


def test_columns_named_as_those_of_the_index_become_them(tmp_path: Path) -> None:
    seen = [datetime(2024, 5, 1, 22, row) for row in range(ROWS)]
    path = file(
        tmp_path,
        image=[f"a/{row}.jpg" for row in range(ROWS)],
        label=list(range(ROWS)),
        x1=np.arange(ROWS),
        y1=np.arange(ROWS),
        x2=np.arange(ROWS) + 10.5,
        y2=np.arange(ROWS) + 10.5,
        timestamp=pa.array(seen, pa.timestamp("ns", "UTC")),
        score=["high"] * ROWS,
        frame=np.arange(ROWS) + 0.5,
        row_id=[f"r{row}" for row in range(ROWS)],
        run=["first"] * ROWS,
    )
    index = build_index([path], tmp_path / "index")
    assert [note.split("'")[1] for note in index.manifest.notes] == ["score", "frame"]
    row = index.row_of("d7")
    (hit,) = index.describe(index.search(VECTORS[7:8], 1))
    assert hit == {
        "rank": 1,
        "detection_id": "d7",
        "score": pytest.approx(1),
        "label": "7",
        "label_index": None,
        "label_score": None,
        "image": "a/7.jpg",
        "box": [7, 7, 17.5, 17.5],
        "sequence": None,
        "frame": None,
        "timestamp": "2024-05-01T22:07:00",
        "payload": {"score": "high", "frame": 7.5, "row_id": "r7", "run": "first"},
    }
    assert index.image_path(row) == tmp_path / "a" / "7.jpg"
    assert index.columns(np.array([row]), ["row_id", "run"]) == {"row_id": [7], "run": [0]}
    assert index.matching(Filter("payload.row_id = 'r7' AND row_id = 7")).tolist() == [row]


@pytest.mark.parametrize(
    "columns",
    [
        {name: np.arange(ROWS) for name in ("xmin", "ymin", "xmax", "ymax")},
        {name: np.arange(ROWS) for name in ("X1", "Y1", "X2", "Y2")},
        {name: np.arange(ROWS) for name in ("x", "y", "w", "h")},
        {"bbox": [[1, 2, 3, 4]] * ROWS},
        {},
        {"box": ["B12"] * ROWS},
    ],
)
def test_boxes_under_other_names_are_said(tmp_path: Path, columns: dict[str, Any]) -> None:
    index = build_index([file(tmp_path, **columns)], tmp_path / "index")
    said = [note for note in index.manifest.notes if "x1, y1, x2, y2" in note]
    assert len(said) == (len(columns) > 1 or "bbox" in columns)


def test_columns_that_are_no_values_are_left_out(tmp_path: Path) -> None:
    struct = [{"bytes": b"", "path": "a.jpg"}] * ROWS  # as data sets of images have it
    index = build_index([file(tmp_path, image=struct)], tmp_path / "index")
    assert index.describe(index.search(VECTORS[:1], 1))[0]["image"] is None
    assert "'image' (struct<" in index.manifest.notes[0]
    with pytest.raises(SnapshotError, match="no image"):
        index.image_path(0)


@pytest.mark.parametrize("ids", [np.arange(ROWS) + 2**60, np.arange(ROWS, dtype="u1")])
def test_whole_numbers_are_ids(tmp_path: Path, ids: np.ndarray) -> None:
    path = parquet("list", "f4", "id")(tmp_path, VECTORS, ids, {})
    index = build_index([path], tmp_path / "index")
    assert index.search(VECTORS[3:4], 1).rows[0, 0] == index.row_of(str(ids[3]))
    beside = npy("f4", "npy")(tmp_path, VECTORS, ids, {})
    assert build_index([beside], tmp_path / "other").row_of(str(ids[3])) >= 0


def test_another_column_can_name_the_rows(tmp_path: Path) -> None:
    path = file(tmp_path, key=[f"k{row}" for row in range(ROWS)])
    index = build_index([path], tmp_path / "index", id_column="key")
    (hit,) = index.describe(index.search(VECTORS[3:4], 1))
    assert (hit["detection_id"], hit["payload"]) == ("k3", {"detection_id": "d3"})
    refused(path, "id_column='nothing'.*no such column", id_column="nothing")


def test_files_of_several_kinds_share_an_index(tmp_path: Path) -> None:
    first = file(tmp_path, site=["north"] * ROWS)
    (tmp_path / "b").mkdir()
    second = npy("f2", "\n")(tmp_path / "b", VECTORS, [f"n{row}" for row in range(ROWS)], {})
    (tmp_path / "c").mkdir()
    ids = [f"a{row}" for row in range(ROWS)]
    third = arrow_file(tmp_path / "c", VECTORS, ids, {"site": ["south"] * ROWS})
    out = tmp_path / "index"
    assert build_index([first, second], out).manifest.rows == 60
    index = add_runs(out, [third])
    assert [entry.rows for entry in index.manifest.runs] == [30, 30, 30]
    assert count_values(index, "site", None, 9)[1] == [("north", 30), ("south", 30)]
    assert len(index.matching(Filter("site IS NULL AND run = 1"))) == 30


def test_a_column_may_be_of_the_index_in_one_file_and_own_or_left_out_in_another(
    tmp_path: Path,
) -> None:
    tags = [["a"]] * ROWS
    first = file(tmp_path / "a", score=[0.5] * ROWS, tags=tags)
    ids = pa.array([f"b{row}" for row in range(ROWS)])
    path = parquet("list", "f4")(
        tmp_path, VECTORS, ids, {"score": ["high"] * ROWS, "tags": ["x"] * ROWS}
    )
    index = build_index([first, path], tmp_path / "index")
    rows = index.rows_of(["d1", "b1"])
    assert index.columns(rows, ["score", "payload.score", "tags"]) == {
        "score": [0.5, None],
        "payload.score": [None, "high"],
        "tags": [None, "x"],
    }


def test_hdf5_of_a_run_is_read(tmp_path: Path) -> None:
    run = Run.open(make_run(tmp_path / "run", VECTORS, files=1, errors={4: "torn"}))
    (run.path / "hdf5").mkdir()
    _write_shard(run.path / "hdf5", 8, (), frozenset(), run.files()[0])
    index = build_index(sorted((run.path / "hdf5").glob("*.h5")), tmp_path / "index")
    assert (index.manifest.rows, index.manifest.skipped_reasons) == (29, {"no_embedding": 1})
    assert index.search(VECTORS[9:10], 1).rows[0, 0] == index.row_of("d9")
    assert index.own_columns == ["payload.row_id"]


def test_hdf5_without_ids_names_rows_by_number_and_says_so(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as hdf5:
        hdf5["features"] = VECTORS.astype("f8")
        hdf5["logits"] = np.zeros((ROWS, 4))
        hdf5["site"] = [f"sité {row}" for row in range(ROWS)]
        hdf5["mean"] = np.zeros(3)
        hdf5["more/features"] = np.zeros(3)
    index = build_index([tmp_path / "x.h5"], tmp_path / "index")
    assert "named by their number" in index.manifest.notes[0]
    assert "'logits' (list<" in index.manifest.notes[1]
    (hit,) = index.describe(index.search(VECTORS[9:10], 1))
    assert (hit["detection_id"], hit["payload"]) == ("9", {"site": "sité 9"})


def test_a_name_keeps_vectors_of_two_models_apart(tmp_path: Path) -> None:
    out = tmp_path / "index"
    index = build_index([file(tmp_path)], out, model_name="clip: B/32")
    assert (index.manifest.fingerprint, index.manifest.model_name) == ("vectors:clip: B/32",) * 2
    more = npy("f4", "\n")(tmp_path, VECTORS, [f"n{row}" for row in range(ROWS)], {})
    with pytest.raises(SnapshotError, match="fingerprint vectors:dino"):
        add_runs(out, [more], model_name="dino")
    assert add_runs(out, [more]).manifest.fingerprint == "vectors:clip: B/32"
    with pytest.raises(SnapshotError, match="model fingerprint"):
        build_index([file(tmp_path)], out)
    run = make_run(tmp_path / "run", embeddings(5), prefix="r")
    with pytest.raises(SnapshotError, match="two models cannot be compared"):
        add_runs(out, [run])
    with pytest.raises(SnapshotError, match="two models cannot be compared"):
        build_index([run, file(tmp_path)], tmp_path / "other")
    with pytest.raises(SnapshotError, match="is for files of vectors"):
        build_index([run], tmp_path / "other", model_name="clip")


def test_files_of_another_dimension_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "index"
    build_index([file(tmp_path)], out)
    pq.write_table(pa.table({"id": ["a"], "embedding": [[1.0, 2.0]]}), tmp_path / "small.parquet")
    with pytest.raises(SnapshotError, match=r"of dimension 2, .* of 32"):
        add_runs(out, [tmp_path / "small.parquet"])
    with pytest.raises(SnapshotError, match="dimension"):
        build_index([file(tmp_path), tmp_path / "small.parquet"], tmp_path / "other")


def test_images_cannot_be_searched_for_nor_runs_migrated(tmp_path: Path) -> None:
    out = tmp_path / "index"
    index = api.build_index(file(tmp_path), out, model="clip", progress=False)
    assert "clip" in repr(index)
    assert list(index.search(VECTORS[4], k=1).ids) == ["d4"]
    assert index.search(VECTORS[4], k=1).draw() is not None
    picture = tmp_path / "query.jpg"
    picture.write_bytes(b"")
    with pytest.raises(InputError, match=r"vectors:clip, .* no model to embed"):
        index.search_images(picture)
    ended = here("query", out, "--image", picture)
    assert "no model" in only_error(ended.returncode, ended.stdout, ended.stderr)
    run = Run.open(make_run(tmp_path / "run", VECTORS))
    with pytest.raises(SnapshotError, match="no run to migrate"):
        check_replaceable(out, run, tmp_path / "new")


def test_the_command_builds_adds_shows_and_asks(tmp_path: Path) -> None:
    path, out = file(tmp_path), tmp_path / "index"
    command = ("index", "build", path, "--out", out, "--id-column", "detection_id")
    assert here(*command, "--model", "clip").returncode == 0
    more = npy("f4", "\n")(tmp_path, VECTORS, [f"n{row}" for row in range(ROWS)], {})
    assert here("index", "add", out, more).returncode == 0
    for asked in (("inspect", out, "--verify"), ("index", "list", out)):
        ended = here(*asked)
        assert (ended.returncode, "vectors:clip" in ended.stdout) == (0, True), ended.stderr
    ended = here("query", out, "--id", "d4", "--json")
    assert {hit["detection_id"] for hit in json.loads(ended.stdout)["hits"]} >= {"n4"}
    assert "None" not in here("query", out, "--id", "d4").stdout


def test_python_warns_of_rows_without_a_vector(tmp_path: Path) -> None:
    vectors = np.concatenate([VECTORS, np.full((1, DIM), -1, "f4")])
    path = parquet("list", "f4")(tmp_path, vectors, [*IDS, "gone"], {})
    with pytest.warns(OnepassWarning, match="1 rows have no embedding"):
        assert len(api.build_index(path, tmp_path / "index", progress=False)) == ROWS


def write(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "bad.parquet")
    return folder / "bad.parquet"


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    two = [[1.0, 2.0], [3.0, 4.0]]
    refused(write(tmp_path, id=["a", "b"], vector=two), "no column 'embedding' .it has id, vector")
    refused(write(tmp_path, key=["a", "b"], embedding=two), "no column 'detection_id' or 'id'")
    refused(write(tmp_path, id=["a", "b"], embedding=[1.0, 2.0]), "is double; give a list of")
    refused(write(tmp_path, id=["a", "b"], embedding=[["x"], ["y"]]), "give a list of numbers")
    refused(write(tmp_path, id=["a", None], embedding=two), r"row 1 .* has no id")
    refused(write(tmp_path, id=[0.5, 1.5], embedding=two), "the ids are double")
    refused(write(tmp_path, id=["a", "a"], embedding=two), "is there 2 times")
    uneven = [[1.0, 2.0]] * 20 + [[1.0, 2.0, 3.0]]
    ids = list(range(21))
    refused(write(tmp_path, id=ids, embedding=uneven), r"row 20 .* of 3 values, the first one 2")
    empty = pa.array([None, None], pa.list_(pa.float32()))
    refused(write(tmp_path, id=["a", "b"], embedding=empty), "no row with a vector")
    refused(write(tmp_path, id=pa.array([], "i8"), embedding=empty[:0]), "no row with a vector")
    holes = parquet("fixed", "f4")(tmp_path, np.array([[1, 2], [-1, -1]]), ["a", "b"], {})
    refused(holes, "as a plain list")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    refused(tmp_path / "torn.parquet", "torn.parquet cannot be read")
    (tmp_path / "torn.arrow").write_bytes(b"ARROW and no more")
    refused(tmp_path / "torn.arrow", "torn.arrow cannot be read")
    refused(tmp_path / "gone.parquet", "no such file")
    (tmp_path / "x.csv").write_text("id,embedding\n")
    refused(tmp_path / "x.csv", r"neither a run's folder nor a file of vectors \(.parquet")
    refused(tmp_path / "gone", "no such run folder")


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, ids = tmp_path / "x.npy", tmp_path / "x.ids.txt"
    np.save(path, VECTORS)
    refused(path, r"x.ids.txt .one a line. or x.ids.npy; neither is there")
    ids.write_text("a\nb\n")
    refused(path, "holds 2 ids, .* 30 vectors")
    ids.write_bytes("é\nb\n".encode("latin-1"))
    refused(path, "not UTF-8")
    ids.write_bytes("a\nb\n".encode("utf-16-le"))
    refused(path, "zero bytes")
    ids.write_bytes("a\nb\n".encode("utf-16"))
    refused(path, "holds 2 ids, .* 30 vectors")
    ids.write_text("\n".join(["a", "", *IDS[2:]]))
    refused(path, r"row 1 .* has no id")
    np.save(tmp_path / "x.ids.npy", np.arange(ROWS))
    refused(path, "both are there")
    ids.unlink()
    refused(path, "id_column='key'.* no columns", id_column="key")
    np.save(tmp_path / "x.ids.npy", np.arange(ROWS) / 2)
    refused(path, "float64 .*give texts or whole numbers")
    np.save(tmp_path / "x.ids.npy", np.arange(ROWS))
    for bad, says in (
        (VECTORS[0], r"shape \(32,\)"),
        (VECTORS[:, :0], "shape"),
        (VECTORS.astype("c8"), "complex64; give float16"),
        (np.array([["a"]]), "<U1; give float16"),
    ):
        np.save(path, bad)
        refused(path, says)
    path.write_bytes(b"\x93NUMPY")
    refused(path, "cannot be read as .npy")
    with h5py.File(tmp_path / "x.h5", "w") as hdf5:
        hdf5["vectors"] = VECTORS
    refused(tmp_path / "x.h5", "no dataset 'features' .it has vectors")
    (tmp_path / "torn.h5").write_bytes(b"no")
    refused(tmp_path / "torn.h5", "cannot be read as .h5")


def test_compact_does_not_need_the_file(tmp_path: Path) -> None:
    out = tmp_path / "index"
    path = file(tmp_path)
    built = build_index([path], out)
    assert built.verify() == ROWS
    path.unlink()
    compacted = compact(out)
    assert (compacted.verify(), compacted.own_columns) == (ROWS, built.own_columns)
    hits, before = (each.search(VECTORS[:5], 3) for each in (compacted, built))
    np.testing.assert_array_equal(hits.scores, before.scores)
