"""Writing a run into an AMI database: counted, written, interrupted, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

import ami.join
from ami.write_back import Changes, write_database
from common.errors import InputError, OnepassError, RunError, SourceError, WorkError
from tests.helpers.ami import DETECTIONS, change, fill, stored
from tests.helpers.commands import ROOT, here
from tests.helpers.postgres import Server
from tests.helpers.refusals import only_error
from tests.helpers.runs import write_run
from tests.integration.ami.worlds import DIM, World, run_of, world_of

TRACKS = ("sequence_id", "sequence_frame", "sequence_previous_id", "sequence_previous_cost")
LABELS = ("specific_label", "specific_label_score", "model_name")
ALL = ("cnn_features", *TRACKS, *LABELS)
ONLY_FEATURES: dict[str, bool] = {"tracks": False}
ONLY_TRACKS: dict[str, bool] = {"features": False}
ONLY_LABELS: dict[str, bool] = {"features": False, "tracks": False, "labels": True}
OTHERS = [column.name for column in DETECTIONS.columns if column.name not in ALL]


@pytest.fixture
def world(url: str, tmp_path: Path) -> World:
    return world_of(url, tmp_path)


def same(row: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two rows are equal; numbers of the network as a float32 tells them."""
    for name, value in expected.items():
        if isinstance(value, float):
            if np.float32(row[name]) != np.float32(value):
                return False
        elif row[name] != value:
            return False
    return True


def check_written(world: World, keys: set[int] | None = None, *, with_labels: bool = False) -> None:
    """The database holds exactly what the run says of ``keys``, or of every detection."""
    now, tracks = stored(world.url, *ALL), world.tracks()
    labels = {
        row["database_id"]: row
        for row in world.run.to_arrow(["database_id", "label", "score"]).to_pylist()
    }
    for key in tracks if keys is None else keys:
        features = np.array(now[key]["cnn_features"])
        assert features.shape == (DIM,)
        np.testing.assert_allclose(features, world.vectors[key], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(features.astype(np.float32), world.vectors[key])
        assert same(now[key], tracks[key])
        old = ("Noctua pronuba", 0.5, None)
        new = (labels[key]["label"], labels[key]["score"], "tiny")
        label, score, model = new if with_labels else old
        assert (now[key]["specific_label"], now[key]["model_name"]) == (label, model)
        assert now[key]["specific_label_score"] == pytest.approx(score, abs=1e-7)


def test_dry_run_then_write_then_nothing_left_to_do(world: World) -> None:
    before = stored(world.url, *DETECTIONS.columns.keys())
    tried = write_database(world.path, world.url, labels=True)
    assert stored(world.url, *DETECTIONS.columns.keys()) == before
    assert not tried.wrote
    assert tried.rows == tried.updated == 16
    starts = sum(row["sequence_previous_id"] is None for row in world.tracks().values())
    assert 0 < starts < 16
    assert tried.columns == {
        "cnn_features": Changes(filled=16),
        "sequence_id": Changes(filled=16),
        "sequence_frame": Changes(filled=16),
        "sequence_previous_id": Changes(filled=16 - starts, equal=starts),
        "sequence_previous_cost": Changes(filled=16 - starts, equal=starts),
        "specific_label": Changes(changed=16),
        "specific_label_score": Changes(changed=8, equal=8),
        "model_name": Changes(filled=16),
    }
    done = write_database(world.path, world.url, labels=True, write_back=True)
    assert done.wrote
    assert (done.columns, done.examples) == (tried.columns, tried.examples)
    check_written(world, with_labels=True)
    after = stored(world.url, *DETECTIONS.columns.keys())
    for key, row in after.items():
        assert {name: row[name] for name in OTHERS} == {name: before[key][name] for name in OTHERS}
    again = write_database(world.path, world.url, labels=True, write_back=True)
    assert (again.updated, again.examples) == (0, [])
    assert again.columns == {name: Changes(equal=16) for name in ALL}
    assert stored(world.url, *DETECTIONS.columns.keys()) == after


def test_chosen_columns_only(world: World) -> None:
    done = write_database(world.path, world.url, **ONLY_LABELS, write_back=True)
    assert [*done.columns] == [*LABELS]
    now = stored(world.url, *ALL)
    assert {row["specific_label"] for row in now.values()} == {"class 0", "class 1", "class 2"}
    assert all(row[name] is None for row in now.values() for name in ("cnn_features", *TRACKS))


def test_errors_stay_as_they_are_and_other_detections_too(url: str, tmp_path: Path) -> None:
    world = world_of(url, tmp_path, errors=(4, 9))
    change(
        url,
        DETECTIONS.insert().values(id=99, image_id=100, bbox=[1, 2, 3, 4], specific_label="new"),
        "DELETE FROM detections WHERE id = 12",
        DETECTIONS.update().where(DETECTIONS.c.id == 9).values(cnn_features=[1.0]),
    )
    before = stored(url, *ALL)
    done = write_database(world.path, url, write_back=True)
    assert (done.rows, done.failed, done.others, done.updated) == (16, 2, 1, 13)
    assert done.gone.count == 1
    assert done.gone.first == ["ami:12"]
    now = stored(url, *ALL)
    assert {key for key in now if now[key] == before[key]} == {4, 9, 99}
    check_written(world, set(now) - {4, 9, 99})


def test_old_tracks_are_replaced_and_old_links_emptied(world: World) -> None:
    change(
        world.url,
        DETECTIONS.update().values(
            sequence_id="20220621-SEQ-1",
            sequence_frame=0,
            sequence_previous_id=1,
            sequence_previous_cost=0.5,
        ),
    )
    starts = sum(row["sequence_previous_id"] is None for row in world.tracks().values())
    done = write_database(world.path, world.url, **ONLY_TRACKS, write_back=True)
    assert done.columns["sequence_id"] == Changes(changed=16)
    assert done.columns["sequence_previous_cost"] == Changes(changed=16 - starts, cleared=starts)
    now = stored(world.url, *TRACKS)
    assert all(same(now[key], row) for key, row in world.tracks().items())


def test_a_class_that_a_gate_refused_keeps_the_old_label(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ami.join.read_pairs

    def refused(*given: Any, **named: Any) -> Any:
        for chunk in real(*given, **named):
            for pair in chunk:
                if pair.key == 5:
                    pair.run_row.update(label=None, score=None)
            yield chunk

    monkeypatch.setattr("ami.write_back.read_pairs", refused)
    done = write_database(world.path, world.url, **ONLY_LABELS, write_back=True)
    assert done.columns["specific_label"] == Changes(changed=15, kept=1)
    assert stored(world.url, *LABELS)[5]["specific_label"] == "Noctua pronuba"


def test_a_detection_that_is_another_by_now_stays_as_it_is(world: World) -> None:
    """The companion looked at images again: new boxes, and in SQLite with the old ids."""
    change(
        world.url,
        "UPDATE detections SET bbox = '[5, 10, 55, 71]' WHERE id = 1",
        "UPDATE detections SET image_id = 200 WHERE id = 2",
        "UPDATE detections SET bbox = 'null' WHERE id = 3",
        "UPDATE detections SET image_id = NULL WHERE id = 4",
        # As it was, in other words.
        "UPDATE detections SET bbox = '[11.0, 10, 6.1e1, 70]' WHERE id = 5",
    )
    before = stored(world.url, *ALL)
    for _ in range(2):
        done = write_database(world.path, world.url, write_back=True)
        assert done.moved.count == 4
        assert sorted(done.moved.first) == ["ami:1", "ami:2", "ami:3", "ami:4"]
        assert done.gone.count == 0
    now = stored(world.url, *ALL)
    for key in (1, 2, 3, 4):
        assert now[key] == before[key]
    check_written(world, set(now) - {1, 2, 3, 4})


def fail_at(url: str, key: int) -> None:
    """From now on the database refuses to update this detection."""
    if url.startswith("sqlite"):
        change(
            url,
            f"CREATE TRIGGER trouble BEFORE UPDATE ON detections WHEN NEW.id = {key} "
            "BEGIN SELECT RAISE(ABORT, 'trouble with the disk'); END",
        )
        return
    change(
        url,
        "CREATE FUNCTION trouble() RETURNS trigger AS "
        "$$ BEGIN RAISE EXCEPTION 'trouble with the disk'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER trouble BEFORE UPDATE ON detections FOR EACH ROW "
        f"WHEN (NEW.id = {key}) EXECUTE FUNCTION trouble()",
    )


def repair(url: str) -> None:
    change(url, "DROP TRIGGER trouble" + ("" if url.startswith("sqlite") else " ON detections"))


@pytest.fixture
def chunks(world: World, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Ids of what one transaction writes, for chunks of three."""
    monkeypatch.setattr(ami.join, "CHUNK_ROWS", 3)
    return [
        batch["database_id"].to_pylist()
        for batch in world.run.iter_batches(3, columns=["database_id"])
    ]


def test_a_failure_leaves_its_chunk_alone_and_the_same_command_completes(
    world: World, chunks: list[list[int]]
) -> None:
    before = stored(world.url, *ALL)
    fail_at(world.url, chunks[2][1])
    with pytest.raises(WorkError, match=r"trouble with the disk.*the same command continues"):
        write_database(world.path, world.url, write_back=True)
    now = stored(world.url, *ALL)
    written = {*chunks[0], *chunks[1]}
    check_written(world, written)
    assert {key for key in now if now[key] == before[key]} == set(now) - written
    repair(world.url)
    done = write_database(world.path, world.url, write_back=True)
    assert done.updated == 16 - len(written)
    assert done.columns["cnn_features"] == Changes(filled=10, equal=6)
    check_written(world)


KILLED = """
import os, signal, sys
from pathlib import Path
import ami.join
from ami.write_back import write_database

def die(done, total):
    if done == 6:
        os.kill(os.getpid(), signal.SIGKILL)

ami.join.CHUNK_ROWS = 3
write_database(Path(sys.argv[1]), sys.argv[2], write_back=True, progress=die)
"""


def test_killed_after_two_transactions(world: World, chunks: list[list[int]]) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, world.path, world.url],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    features = stored(world.url, "cnn_features")
    written = {key for key, row in features.items() if row["cnn_features"] is not None}
    assert written == {*chunks[0], *chunks[1]}
    assert write_database(world.path, world.url, write_back=True).updated == 16 - len(written)
    check_written(world)


def test_what_others_lock_is_waited_for_and_then_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.sources.database.connect.WAIT_SECONDS", 1)
    engine = sa.create_engine(world.url, isolation_level="AUTOCOMMIT")
    sqlite = world.url.startswith("sqlite")
    with engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE" if sqlite else "BEGIN")
        other.exec_driver_sql("UPDATE detections SET notes = NULL WHERE id = 3")
        message = "database is locked" if sqlite else "lock timeout"
        with pytest.raises(WorkError, match=f"{message}.*; what was committed stays"):
            write_database(world.path, world.url, write_back=True)
        assert write_database(world.path, world.url).updated == 16  # looking needs no lock
        other.exec_driver_sql("ROLLBACK")
    engine.dispose()
    assert stored(world.url, "cnn_features")[1]["cnn_features"] is None
    write_database(world.path, world.url, write_back=True)
    check_written(world)


def test_a_file_that_may_not_be_written() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders let nobody else in
        folder = Path(name)
        folder.chmod(0o755)
        world = world_of(f"sqlite:///{folder}/ami.db", folder)
        (folder / "ami.db").chmod(0o444)
        try:
            if user == 0:  # whom no mode keeps from writing
                os.seteuid(65534)
            with pytest.raises(InputError, match="refuses it: attempt to write a readonly databas"):
                write_database(world.path, world.url, write_back=True)
            assert write_database(world.path, world.url).updated == 16
        finally:
            os.seteuid(user)


def test_who_may_only_read_is_refused_and_who_may_write_does(
    postgres: Server, fresh: str, tmp_path: Path
) -> None:
    world = world_of(postgres.url(fresh), tmp_path)
    reader = postgres.role(fresh, "reader")
    assert write_database(world.path, reader).updated == 16
    with pytest.raises(InputError, match="refuses it: permission denied for table detections"):
        write_database(world.path, reader, write_back=True)
    writer = postgres.role(fresh, "writer", "GRANT UPDATE ON detections")
    postgres.do(f"ALTER ROLE writer_{fresh} SET default_transaction_read_only = on")
    with pytest.raises(InputError, match="read-only transaction"):
        write_database(world.path, writer, write_back=True)
    postgres.do(f"ALTER ROLE writer_{fresh} RESET default_transaction_read_only")
    write_database(world.path, writer, write_back=True)  # read as one role, written as another
    check_written(world)


def test_updates_that_the_server_swallows_are_noticed(
    postgres: Server, fresh: str, tmp_path: Path
) -> None:
    world = world_of(postgres.url(fresh), tmp_path)
    writer = postgres.role(fresh, "writer", "GRANT UPDATE ON detections")
    postgres.do(
        "CREATE FUNCTION swallow() RETURNS trigger AS $$ BEGIN RETURN NULL; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER swallow BEFORE UPDATE ON detections FOR EACH ROW EXECUTE FUNCTION swallow()",
        database=fresh,
    )
    with pytest.raises(WorkError, match=r"took 0 of \d+ updates"):
        write_database(world.path, writer, write_back=True)


def test_a_track_that_a_stranger_is_on(world: World) -> None:
    """A detection that is not in the run, with the id of one of its tracks, as of a run before."""
    track = world.tracks()[1]["sequence_id"]
    new = {"id": 77, "image_id": 100, "monitoring_session_id": 1, "bbox": [1, 2, 3, 4]}
    change(world.url, DETECTIONS.insert().values(new | {"sequence_id": track}))
    before = stored(world.url, *ALL)
    for write_back in (False, True):
        with pytest.raises(RunError, match=f"track '{track}' of .* is on detection 77 already"):
            write_database(world.path, world.url, write_back=write_back)
    assert stored(world.url, *ALL) == before
    done = write_database(world.path, world.url, tracks=False, labels=True, write_back=True)
    assert (done.updated, done.others) == (16, 1)


def test_another_database_is_refused(url: str, world: World, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    fill(other, tmp_path / "more")
    with pytest.raises(RunError, match=r"was extracted from .*, not from sqlite:.*other\.db"):
        write_database(world.path, other, write_back=True)
    assert all(row["cnn_features"] is None for row in stored(other, "cnn_features").values())
    change(world.url, "UPDATE detections SET id = id + 1000")
    with pytest.raises(RunError, match="has none of the 16 detections"):
        write_database(world.path, world.url, write_back=True)


def test_a_run_of_something_else_is_refused(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "traps")
    run = write_run(tmp_path / "run", {"image": ["a.jpg", "b.jpg"]}, np.ones((2, 4)))
    with pytest.raises(RunError, match="was not extracted from a database but from test"):
        write_database(run.path, url, write_back=True)


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"features": False, "tracks": False}, InputError, "one of `features`, `tracks`, `labels`"),
        ({"label_nonmoths": True}, InputError, "give `labels=True`"),
        ({"features": False}, RunError, "has no tracks; make them with 'onepass link"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, given: dict[str, bool], kind: type[OnepassError], says: str
) -> None:
    world = world_of(f"sqlite:///{tmp_path}/ami.db", tmp_path, link=False)
    with pytest.raises(kind, match=says):
        write_database(world.path, world.url, **given)


def test_a_column_that_the_database_lacks(world: World) -> None:
    change(world.url, "ALTER TABLE detections DROP COLUMN cnn_features")
    with pytest.raises(SourceError, match=r"no column 'cnn_features'; .* \(`features=False`\)"):
        write_database(world.path, world.url)
    write_database(world.path, world.url, **ONLY_LABELS, write_back=True)
    change(world.url, "ALTER TABLE detections DROP COLUMN model_name")
    with pytest.raises(SourceError, match=r"no column 'model_name'; .* \(`labels=False`\)"):
        write_database(world.path, world.url, **ONLY_LABELS, write_back=True)


def test_tracks_of_an_earlier_run_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    world = world_of(url, tmp_path, errors=(2, 3))
    whole = run_of(url, tmp_path / "whole", link=False)
    (world.path / "tracks").rename(whole.path / "tracks")
    with pytest.raises(
        RunError, match=r"the tracks of .* are of other rows, .* 'onepass link .*' again"
    ):
        write_database(whole.path, url)


def test_the_command_says_what_it_would_do_and_does_it(url: str, tmp_path: Path) -> None:
    world = world_of(url, tmp_path, errors=(4,))
    change(url, "DELETE FROM detections WHERE id = 12")
    change(url, "UPDATE detections SET binary_label = 'nonmoth' WHERE id = 5")
    tried = here("database", "write", world.path, url)
    assert tried.returncode == 0, tried.stderr
    assert "14 of 16 detections" in tried.stdout
    assert "would be updated" in tried.stdout
    assert "cnn_features            14 set, 0 changed from another value, 0 equal" in tried.stdout
    assert "specific_label" not in tried.stdout
    assert "--labels" in tried.stdout
    assert "1 have an error in the run and stay as they are" in tried.stdout
    assert tried.stdout.endswith("dry run: nothing was written; add --write-back to write\n")
    assert tried.stderr == "warning: 1 of the run are gone from the database: ami:12\n"
    labels = here("database", "write", world.path, url, "--labels")
    assert "specific_label          0 set, 13 changed from another value" in labels.stdout
    assert "1 are not a moth by their binary_label and keep their label" in labels.stdout
    assert "Noctua pronuba -> class " in labels.stdout
    assert "empty -> tiny" in labels.stdout
    assert labels.stdout.count(" -> ") == 11  # ten, and the line above them
    asked = ("--labels", "--label-nonmoths", "--no-features", "--no-tracks", "--json")
    document = json.loads(here("database", "write", world.path, url, *asked).stdout)
    assert [*document["columns"]] == [*LABELS]
    assert document["nonmoths"] == {"count": 0, "first": []}
    assert len(document["examples"]) == 10
    assert document["examples"][0] == {
        "detection": document["examples"][0]["detection"],
        "column": "specific_label",
        "before": "Noctua pronuba",
        "after": "class 0",
    }
    assert here("database", "write", world.path, url, "--label-nonmoths").returncode == 2
    done = here("database", "write", world.path, url, "--write-back", "--no-tracks")
    assert done.returncode == 0, done.stderr
    assert "were updated" in done.stdout
    assert "dry run" not in done.stdout
    assert " -> " not in done.stdout
    again = here("database", "write", world.path, url, "--no-tracks")
    assert "0 set, 0 changed from another value, 14 equal already" in again.stdout


def test_the_command_refuses_in_one_line(postgres: Server, fresh: str, tmp_path: Path) -> None:
    world = world_of(postgres.url(fresh), tmp_path)
    postgres.role(fresh, "anna")
    wrong = postgres.url(fresh, f"anna_{fresh}:gue55")
    for command in ("compare", "write"):
        done = here("database", command, world.path, wrong)
        line = only_error(done.returncode, done.stdout, done.stderr)
        assert "cannot be opened" in line
        assert "gue55" not in line
        done = here("database", command, world.path, f"sqlite:///{tmp_path}/gone.db")
        line = only_error(done.returncode, done.stdout, done.stderr)
        assert "not from sqlite:" in line
