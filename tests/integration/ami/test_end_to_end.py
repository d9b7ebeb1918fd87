"""The commands from database to run to tracks and back, on Ray; killed and continued."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ami.compare import compare_database
from ami.write_back import GROUPS, Changes, write_database
from migration.migrate import extract_again
from pipelines.config import ExtractConfig
from pipelines.engines.embed import Embedder
from pipelines.extract import extract
from pipelines.images.pixels import read
from pipelines.run import Run
from tests.helpers.ami import change, fill, stored
from tests.helpers.commands import here
from tests.helpers.postgres import Server
from tracks.link import link_run
from tracks.store import read_tracks


def onepass(*arguments: object) -> str:
    """What a command printed."""
    done = here(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_the_database_and_back(tmp_path: Path) -> None:
    url, out = f"sqlite:///{tmp_path}/ami.db", tmp_path / "run"
    fill(url, tmp_path / "traps")
    change(
        url,
        "UPDATE detections SET bbox = '[1, 2, \"x\", 4]' WHERE id = 6",
        "UPDATE images SET path = 'lost.jpg' WHERE id = 200",  # of detections 9 and 10
    )

    command = ("extract", url, "--model", "tiny", "--out", out, "--precision", "fp32")
    printed = onepass(*command)
    assert "16 rows, 3 with errors" in printed
    run = Run.open(out)
    assert run.manifest.source == f"sqlite:///{tmp_path}/ami.db"
    assert run.manifest.errors == {"box not numbers": 1, "missing file": 2}
    assert "is finished already: 16 rows; nothing to do" in onepass(*command)

    onepass("link", out)
    write = ("database", "write", out, url, "--labels")
    assert "13 of 16 detections" in onepass(*write)
    assert all(row["cnn_features"] is None for row in stored(url, "cnn_features").values())
    assert "were updated" in onepass(*write, "--write-back")

    embedder = Embedder.load(run.manifest.model)
    columns = ["database_id", "image", "label", "score", "error", "x1", "y1", "x2", "y2"]
    rows = {row["database_id"]: row for row in run.to_arrow(columns).to_pylist()}
    tracks = {row["detection_id"]: row for row in read_tracks(out).to_pylist()}
    now = stored(url, "cnn_features", *GROUPS["tracks"], "specific_label", "specific_label_score")
    assert {key for key, row in rows.items() if row["error"]} == {6, 9, 10}
    for key, row in rows.items():
        if row["error"]:
            assert now[key]["cnn_features"] is now[key]["sequence_id"] is None
            assert now[key]["specific_label"] == "Noctua pronuba"
            continue
        box = (row["x1"], row["y1"], row["x2"], row["y2"])
        itself = embedder.embed_bytes(read(Path(row["image"])), box=box).embedding
        np.testing.assert_allclose(now[key]["cnn_features"], itself, rtol=1e-4, atol=1e-5)
        track = tracks[f"ami:{key}"]
        assert now[key]["sequence_id"] == track["track_id"]
        assert now[key]["sequence_frame"] == track["position"]
        previous = now[key]["sequence_previous_id"]
        assert track["previous_detection_id"] == (None if previous is None else f"ami:{previous}")
        assert now[key]["specific_label"] == row["label"]
    assert len({row["sequence_id"] for row in now.values()}) < 13  # some were linked

    again = write_database(out, url, labels=True, write_back=True)
    assert again.updated == 0
    assert all(counts == Changes(equal=13) for counts in again.columns.values())
    assert "is finished already: 16 rows; nothing to do" in onepass(*command)
    comparison = compare_database(out, url)
    assert (comparison.compared, comparison.equal) == (13, 13)

    # Another model over the run: its rows still know the database they came from.
    moved = tmp_path / "moved"
    extract_again(ExtractConfig(source=out, model="tiny", input_size=24), moved)
    assert Run.open(moved).manifest.rows.failed == 3
    comparison = compare_database(moved, url)
    assert (comparison.compared, comparison.equal) == (13, 0)
    done = write_database(moved, url, tracks=False, write_back=True)
    assert done.columns == {"cnn_features": Changes(changed=13)}
    assert compare_database(moved, url).equal == 13


def test_a_password_is_nowhere_in_a_run(
    postgres: Server,
    fresh: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fill(postgres.url(fresh), tmp_path / "traps")
    url, out = postgres.role(fresh, "keeper"), tmp_path / "run"
    done = here("extract", url, "--model", "tiny", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "16 rows, 0 with errors" in done.stdout
    others = capfd.readouterr()  # what other processes printed
    assert Run.open(out).manifest.source == f"postgresql://127.0.0.1:{postgres.port}/{fresh}"
    assert "s3cret" not in done.stdout + done.stderr + others.out + others.err
    files = [file for file in out.rglob("*") if file.is_file()]
    assert {"manifest.json", "request.json"} <= {file.name for file in files}
    assert [file for file in files if b"s3cret" in file.read_bytes()] == []
    link_run(out)
    assert write_database(out, postgres.url(fresh), write_back=True).updated == 16
    # With the role that needs none, and with new labels and tracks: the same source and run.
    assert extract(ExtractConfig(source=postgres.url(fresh), model="tiny"), out).already_finished
