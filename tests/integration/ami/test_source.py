"""An AMI database as a source, on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

import pipelines.sources.database.plan
from common.errors import SourceError, WorkError
from pipelines.detections import BOX
from pipelines.request import fingerprint_inputs
from pipelines.sources.read import name_source, read_source
from tests.helpers.ami import DETECTIONS, IMAGES, NIGHT, change, fill, stored
from tests.helpers.commands import ROOT, here
from tests.helpers.postgres import Server
from tests.helpers.refusals import only_error
from tests.helpers.runs import make_config


def boxes(url: str, **values: object) -> None:
    """Give detections, ``d7`` being the 7th, another bbox."""
    change(
        url,
        *(
            DETECTIONS.update().where(DETECTIONS.c.id == int(name[1:])).values(bbox=value)
            for name, value in values.items()
        ),
    )


def test_values_are_those_of_the_database(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "traps")
    change(url, "UPDATE detections SET sequence_id = '20220621-SEQ-1' WHERE id = 3")
    plan = read_source(url)
    rows = {row["database_id"]: row for row in plan.table.to_pylist()}
    kept = stored(
        url,
        *("bbox", "path", "specific_label", "specific_label_score", "binary_label"),
        *("binary_label_score", "sequence_id"),
    )
    assert rows.keys() == kept.keys() == set(range(1, 17))
    for key, row in rows.items():
        assert row["detection_id"] == f"ami:{key}"
        assert row["database"] == name_source(url)
        assert [row[corner] for corner in BOX] == kept[key]["bbox"]
        assert row["crop_path"] == kept[key]["path"]
        assert row["specific_label"] == "Noctua pronuba"
        assert row["specific_label_score"] == 0.5
        assert row["binary_label"] == "moth"
        assert row["binary_label_score"] == 0.75
        assert row["sequence_id"] == kept[key]["sequence_id"]
        assert row["error"] is None
    assert rows[3]["sequence_id"] == "20220621-SEQ-1"
    assert rows[16]["image"] == str(tmp_path / "traps" / "south" / "shot4.jpg")


def test_frames_are_counted_by_time_over_all_images_of_a_session(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "traps", empty=(2,))  # image ids run against time
    plan = read_source(url)
    rows = {row["database_id"]: row for row in plan.table.to_pylist()}
    assert [rows[key]["frame"] for key in range(1, 17)] == [0, 0, 1, 1, 3, 3, 4, 4] * 2
    assert {row["sequence"] for row in rows.values()} == {"north/20220621-1", "south/20220621-2"}
    assert {rows[key]["sequence"] for key in range(1, 9)} == {"north/20220621-1"}
    minutes = {key: (row["timestamp"].minute, row["frame"]) for key, row in rows.items()}
    assert all(minute == frame for minute, frame in minutes.values())
    assert plan.notes == ("2 of 10 images have no detections; they count as frames",)


@pytest.mark.parametrize("time", [None, NIGHT])
def test_images_of_one_time_are_in_natural_order_of_names(
    url: str, tmp_path: Path, time: object
) -> None:
    """Two images of one path are two frames all the same."""
    fill(url, tmp_path / "traps", frames=12, empty=())
    paths = [2, *range(2, 13)]
    for number, path in enumerate(paths):  # of images whose ids run from 100 down
        image = IMAGES.update().where(IMAGES.c.id == 100 - number)
        change(url, image.values(path=f"{path}.jpg", timestamp=time))
    rows = read_source(url).table.to_pylist()
    frames = {row["database_image_id"]: row["frame"] for row in rows}
    of_session = [frames[str(100 - number)] for number in range(12)]
    assert sorted(of_session[:2]) == [0, 1]
    assert of_session[2:] == list(range(2, 12))


def test_two_cameras_in_one_session_do_not_mix(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "traps", empty=())
    change(
        url,
        "UPDATE images SET monitoring_session_id = 1",
        "UPDATE detections SET monitoring_session_id = 1",
    )
    rows = read_source(url).table.to_pylist()
    assert {row["sequence"] for row in rows} == {"north/20220621-1", "south/20220621-1"}
    for row in rows:
        assert row["sequence"].split("/")[0] == Path(row["image"]).parent.name
    assert sorted(row["frame"] for row in rows) == sorted([*range(5)] * 4)


def test_a_box_that_is_none_is_a_row_with_an_error(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "traps")
    boxes(url, d1=[1, 2, 3], d2=["a", "b", "c", "d"], d3=None, d4={"x": 1}, d5=[1, None, 3, 4])
    change(url, "UPDATE detections SET bbox = NULL WHERE id = 6")
    expected = {
        1: "incomplete box",
        2: "box not numbers",
        3: "no box",
        4: "incomplete box",
        5: "box not numbers",
        6: "no box",
    }
    if url.startswith("sqlite"):  # PostgreSQL takes no text that is not JSON
        change(url, "UPDATE detections SET bbox = '[1, 2, NaN, 4]' WHERE id = 7")
        change(url, "UPDATE detections SET bbox = 'somewhere' WHERE id = 8")
        expected |= {7: "box not finite", 8: "unreadable box"}
    rows = {row["database_id"]: row for row in read_source(url).table.to_pylist()}
    assert len(rows) == 16
    errors = {key: row["error"].split(":")[0] for key, row in rows.items() if row["error"]}
    assert errors == expected
    for key in expected:
        assert [rows[key][corner] for corner in BOX] == [None] * 4
        assert rows[key]["error"].endswith(f"[{rows[key]['image']}]")


def test_a_detection_without_its_image_is_a_row_with_an_error(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "traps")
    change(
        url,
        "UPDATE detections SET image_id = NULL WHERE id = 1",
        "UPDATE images SET path = NULL WHERE id = 200",
    )
    rows = {row["database_id"]: row for row in read_source(url).table.to_pylist()}
    assert {key for key, row in rows.items() if row["error"]} == {1, 9, 10}
    assert rows[1]["error"] == "no image: it names none [(no image)]"
    assert rows[9]["error"] == "no image: 200 is not there [(no image)]"


def test_chunks_are_of_no_consequence(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(url, tmp_path / "traps")
    whole, seen = read_source(url).table, []
    monkeypatch.setattr(pipelines.sources.database.plan, "CHUNK_ROWS", 3)
    table = read_source(url, report=lambda done, total: seen.append((done, total))).table
    assert table.equals(whole)
    assert seen == [(done, 16) for done in (3, 6, 9, 12, 15, 16)]


def test_what_makes_it_another_source(url: str, tmp_path: Path) -> None:
    """Boxes and images do; what the companion or a write-back changes in a detection does not."""
    fill(url, tmp_path / "traps")

    def fingerprint() -> dict[str, str]:
        return fingerprint_inputs(read_source(url).decisive, make_config())

    first = fingerprint()
    change(
        url,
        "UPDATE detections SET cnn_features = '[1.0]', model_name = 'other', path = 'crop.jpg', "
        "specific_label = 'Autographa gamma', specific_label_score = 0.1, sequence_id = 'a', "
        "binary_label = 'nonmoth', binary_label_score = 0.2",
    )
    assert fingerprint() == first
    boxes(url, d1=[1, 2, 3, 5])
    changed = fingerprint()
    assert changed != first
    change(url, "DELETE FROM detections WHERE id = 16")
    assert fingerprint() not in (first, changed)


def test_limit_is_of_images(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "traps")
    table = read_source(url, limit=3).table
    assert len(set(table["image"].to_pylist())) == 3
    assert table["row_id"].to_pylist() == list(range(6))


def test_tables_of_an_older_companion(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "traps")
    gone = ("sequence_id", "cnn_features", "path", "binary_label_score", "monitoring_session_id")
    if url.startswith("sqlite"):  # which drops no column that a constraint names
        gone = gone[:-1]
    change(url, *(f"ALTER TABLE detections DROP COLUMN {name}" for name in gone))
    change(url, "DROP TABLE monitoring_sessions" + ("" if "sqlite" in url else " CASCADE"))
    table = read_source(url).table
    assert not {"sequence_id", "crop_path", "binary_label_score"} & set(table.column_names)
    assert set(table["sequence"].to_pylist()) == {"north/1", "south/2"}
    assert table["error"].null_count == 16


def test_what_a_database_must_have(url: str, tmp_path: Path) -> None:
    change(url, "CREATE TABLE moths (id INTEGER)")
    with pytest.raises(SourceError, match=r"no table 'detections' \(it has moths\)"):
        read_source(url)
    change(
        url,
        "CREATE TABLE detections (id INTEGER, image_id INTEGER)",
        "CREATE TABLE images (id INTEGER, path TEXT)",
    )
    with pytest.raises(SourceError, match=r"'detections' has no column 'bbox' \(it has id, image"):
        read_source(url)
    change(url, "DROP TABLE detections", "DROP TABLE images")
    fill(url, tmp_path / "traps", frames=0)
    with pytest.raises(SourceError, match="holds no detections"):
        read_source(url)


def test_times_that_are_none_are_left_out_and_counted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    fill(url, tmp_path / "traps")
    change(url, "UPDATE images SET timestamp = 'at night' WHERE id = 100")
    change(url, IMAGES.update().where(IMAGES.c.id == 99).values(timestamp=None))
    plan = read_source(url)
    rows = {row["database_id"]: row for row in plan.table.to_pylist()}
    assert [key for key, row in rows.items() if row["timestamp"] is None] == [3, 4, 1, 2]
    assert rows[3]["frame"] == 1  # without a time: after the image before it by name
    assert "2 detections have an invalid timestamp; it is left out" in plan.notes
    assert rows[9]["timestamp"] == NIGHT


def test_a_server_with_its_own_ways_of_writing_times(
    postgres: Server, fresh: str, tmp_path: Path
) -> None:
    url = postgres.url(fresh)
    fill(url, tmp_path / "traps")
    expected = read_source(url).table
    postgres.do(
        f"ALTER DATABASE {fresh} SET datestyle = 'German'",
        f"ALTER DATABASE {fresh} SET timezone = 'America/Panama'",
    )
    assert read_source(url).table.equals(expected)
    change(url, "UPDATE images SET timestamp = 'infinity' WHERE id = 100")
    plan = read_source(url)
    rows = {row["database_id"]: row for row in plan.table.to_pylist()}
    assert [rows[key]["timestamp"] for key in (1, 2)] == [None, None]
    assert rows[3]["timestamp"] is not None
    assert "2 detections have an invalid timestamp; it is left out" in plan.notes


def test_bytes_that_are_no_text_cost_their_letters(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    fill(url, tmp_path / "traps")
    change(
        url,
        "UPDATE detections SET specific_label = CAST(x'4dff6f' AS TEXT) WHERE id = 1",
        "UPDATE detections SET bbox = CAST(x'ff5b' AS TEXT) WHERE id = 2",
    )
    rows = {row["database_id"]: row for row in read_source(url).table.to_pylist()}
    assert len(rows) == 16
    assert rows[1]["specific_label"] == "M\N{REPLACEMENT CHARACTER}o"
    assert rows[1]["error"] is None
    assert rows[2]["error"].startswith("unreadable box: ")


def test_images_without_detections_are_counted_past_detections_without_images(
    url: str, tmp_path: Path
) -> None:
    fill(url, tmp_path / "traps")
    change(url, "UPDATE detections SET image_id = NULL WHERE id IN (1, 2)")
    if url.startswith("sqlite"):  # which does not mind a reference to nothing
        change(url, "UPDATE detections SET image_id = 7777 WHERE id IN (3, 4)")
    others = 4 if url.startswith("sqlite") else 3
    assert (
        f"{others} of 10 images have no detections; they count as frames" in read_source(url).notes
    )


def test_relative_pictures_stand_beside_an_sqlite_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    fill(url, tmp_path / "traps")
    change(url, "UPDATE images SET base_path = 'traps/north' WHERE monitoring_session_id = 1")
    plan = read_source(url)
    rows = {row["database_id"]: row for row in plan.table.to_pylist()}
    assert rows[1]["image"] == "traps/north/shot0.jpg"
    assert plan.root == tmp_path
    assert (plan.root / rows[1]["image"]).is_file()


def test_files_that_are_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but long enough to be one\n" * 50)
    with pytest.raises(SourceError, match="file is not a database"):
        read_source(f"sqlite:///{tmp_path}/notes.db")
    with pytest.raises(SourceError, match="takes a folder"):
        read_source(f"sqlite:///{tmp_path}/notes.db", kind="video")


def test_a_locked_file_is_work_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    fill(url, tmp_path / "traps")
    monkeypatch.setattr("pipelines.sources.database.connect.WAIT_SECONDS", 0.1)
    engine = sa.create_engine(url, isolation_level=None)
    with engine.connect() as other:
        other.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(WorkError, match=r"ami\.db: database is locked; try again"):
            read_source(url)
    engine.dispose()


@pytest.fixture
def guarded(postgres: Server, fresh: str, tmp_path: Path) -> str:
    """A database with the role ``reader``, whose password is s3cret and who may only read."""
    fill(postgres.url(fresh), tmp_path / "traps")
    postgres.role(fresh, "reader")
    return postgres.url(fresh, f"reader_{fresh}")


def with_password(url: str, password: str) -> str:
    return url.replace("@", f":{password}@")


def test_passwords(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_source(with_password(guarded, "s3cret")).table.num_rows == 16
    for wrong in (with_password(guarded, "gue55"), guarded):
        with pytest.raises(SourceError, match=r"cannot be opened: .*password") as refused:
            read_source(wrong)
        assert "gue55" not in str(refused.value)
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    assert read_source(guarded).table.num_rows == 16
    assert name_source(guarded) == name_source(with_password(guarded, "s3cret"))


def test_the_command_says_a_wrong_password_in_one_line(guarded: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for url in (with_password(guarded, "gue55"), with_password(guarded, "s3cret") + "_gone"):
        done = here("extract", url, "--model", "tiny", "--out", out)
        line = only_error(done.returncode, done.stdout, done.stderr)
        assert "cannot be opened" in line
        assert "gue55" not in line
        assert "s3cret" not in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("module", "url"),
    [("sqlalchemy", "sqlite:///ami.db"), ("psycopg", "postgresql://anna@127.0.0.1:1/ami")],
)
def test_a_missing_extra_is_named(module: str, url: str) -> None:
    script = (
        f"import sys\nsys.modules[{module!r}] = None\nimport onepass.cli.main\n"
        f"sys.argv = ['onepass', 'extract', {url!r}, '--model', 'tiny', '--out', '/tmp/none']\n"
        "onepass.cli.main.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    line = only_error(done.returncode, done.stdout, done.stderr)
    assert "is not installed" in line
    assert line.endswith("run: pip install 'onepass[database]'")
