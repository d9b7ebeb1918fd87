"""The README's commands, run as they stand there, in order, on drawn photos."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx

from pipelines.run import Run
from tests.helpers.ami import fill, stored
from tests.helpers.commands import here
from tests.helpers.pictures import drawn, photo_folder
from tests.helpers.videos import write_video

ROOT = Path(__file__).parents[3]


def commands(section: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    body = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    block = re.search(r"```sh\n(.*?)```", body, re.DOTALL)
    assert block is not None
    return [line.split("  #")[0].strip() for line in block.group(1).splitlines() if line.strip()]


def python_of_readme(number: int) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return textwrap.dedent(blocks[number])


GROUPS = ("probe", "index", "models", "tracks", "database")
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run_all(lines: list[str], folder: Path, *, alone: bool = False) -> dict[str, str]:
    """What each command said, by the command's name; the later one of two.

    Each runs in this process, unless it is to be ``alone`` in one of its own.
    """
    said = {}
    for line in lines:
        if alone:
            done = subprocess.run(
                line.split(),
                cwd=folder,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=200,
            )
        else:
            assert line.startswith("onepass ")
            with contextlib.chdir(folder):
                done = here(*line.split()[1:])
        assert done.returncode == 0, f"{line}: {done.stderr}"
        words = line.split()[1:]
        said[" ".join(words[: 2 if words[0] in GROUPS else 1])] = done.stdout
    return said


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_your_own_images(tmp_path: Path) -> None:
    photo_folder(tmp_path / "photos", 24)
    *lines, serve = commands("Your own images")
    said = run_all(lines, tmp_path, alone=True)
    assert "24 rows, 0 with errors" in said["extract"]
    assert "each row exactly once" in said["inspect"]
    nearest = said["query"].splitlines()[0].split()
    assert nearest[0] == "1"
    assert float(nearest[1]) > 0.99  # the very image that was asked for
    assert "night0/0000.jpg" in said["query"].splitlines()[0]

    port = serve.split()[-1]
    server = subprocess.Popen(serve.split(), cwd=tmp_path, env=ENVIRONMENT)
    try:
        for _ in range(200):
            try:
                ready = httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                ready = False
            if ready:
                break
            time.sleep(0.2)
        facts = httpx.get(f"http://127.0.0.1:{port}/v1/index").json()
        assert facts["rows"] == 24
        found = run_python(python_of_readme(0), tmp_path)
        assert found.split()[2] == "0000.jpg"
        assert len(found.splitlines()) == 3
        drawn(57).save(tmp_path / "frame57.jpg")
        assert run_python(python_of_readme(1), tmp_path) == "trap-4:00000 None\n"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    another_model(tmp_path)


def another_model(folder: Path) -> None:
    """Drawings are of no class, so two networks name them differently, and that is a verdict."""
    migrate, *rest = commands("Another model")
    with contextlib.chdir(folder):
        done = here(*migrate.split()[1:])
    assert (done.returncode, (folder / "photos.index" / "CURRENT").read_text()) == (1, "v0001\n")
    assert "missed: label agreement" in done.stderr
    assert (folder / "runs/second/migration/report.html").is_file()
    said = run_all([f"{migrate} --min-label-agreement 0", *rest], folder)
    assert "lite1" in said["index list"]
    assert "v0001" in said["index rollback"]


def test_before_a_long_run(tmp_path: Path) -> None:
    photo_folder(tmp_path / "photos", 24)
    ask, *rest = commands("Before a long run")
    told = run_all([ask], tmp_path)["extract"]
    assert "runs/asked would answer 24 rows, with lite0" in told
    assert not (tmp_path / "runs" / "asked").exists()
    said = run_all(rest, tmp_path)
    assert "24 rows, 0 with errors" in said["extract"]
    assert "session 1: finished, 24 rows" in said["inspect"]
    assert (tmp_path / "where.png").stat().st_size > 10_000


def test_tracks(tmp_path: Path) -> None:
    write_nights(tmp_path)
    said = run_all(commands("Tracks"), tmp_path)
    assert "24 rows, 0 with errors" in said["extract"]
    assert "4 tracks of 24 detections in 2 sequences" in said["link"]
    assert "all 2: HOTA 1.000" in said["tracks evaluate"]
    assert "with onepass link RUN --options nights.json" in said["tracks tune"]
    assert (tmp_path / "review" / "review.csv").is_file()
    assert {file.name for file in (tmp_path / "mot").iterdir()} >= {"monday.txt", "tuesday.txt"}
    assert (tmp_path / "monday.mp4").stat().st_size > 1000


def write_nights(folder: Path) -> None:
    """Two nights of six frames, each with two drawn things that walk; their boxes, and who is who."""
    lines = ["image,sequence,frame,x1,y1,x2,y2"]
    (folder / "truth").mkdir()
    for night, name in enumerate(("monday", "tuesday")):
        truth = []
        (folder / name).mkdir()
        for frame in range(6):
            picture = drawn(50 + night, width=320, height=240).convert("L").convert("RGB")
            for who in range(2):
                x, y = 20 + 12 * frame + 150 * who, 40 + 90 * who
                picture.paste(drawn(10 * night + who, width=60, height=50), (x, y))
                lines.append(f"{name}/{frame}.jpg,{name},{frame},{x},{y},{x + 60},{y + 50}")
                truth.append(f"{frame + 1},{who + 1},{x},{y},60,50,1,-1,-1")
            picture.save(folder / name / f"{frame}.jpg", quality=95)
        (folder / "truth" / f"{name}.txt").write_text("\n".join(truth))
    (folder / "nights.csv").write_text("\n".join(lines))


def test_an_ami_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ami.db"
    fill(url, tmp_path / "traps")
    lines = commands("An AMI database")
    said = run_all(lines, tmp_path)
    assert "16 rows, 0 with errors" in said["extract"]
    assert all(
        row["cnn_features"] and row["sequence_id"]
        for row in stored(url, "cnn_features", "sequence_id").values()
    )
    compared = run_all(lines[2:3], tmp_path)["database compare"]
    assert "16 equal: once each is divided by its sum" in compared


def test_videos(tmp_path: Path) -> None:
    for name in ("train/still/a.mp4", "val/still/b.mp4"):
        write_video(tmp_path / "clips" / name, 70)
    said = run_all(commands("Videos"), tmp_path)
    assert "128 rows, 0 with errors" in said["extract"]
    assert "train_features_multiscale.h5: 1 clip, 73 frames, 1280-d" in said["clips"]
    assert "73" in said["inspect"]


def test_new_heads(tmp_path: Path) -> None:
    photo_folder(tmp_path / "photos", 6)
    for number in range(24):
        split, category = ("train", "val")[number % 3 == 0], ("grey", "colourful")[number % 2]
        file = tmp_path / "labelled" / split / category / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = drawn(number)
        (picture.convert("L") if category == "grey" else picture).save(file)
    said = run_all(commands("New heads"), tmp_path)
    assert "24 rows" in said["probe apply"]
    assert "2 classes by head" in said["extract"]
    metrics = json.loads((tmp_path / "ants.json").read_text())
    assert metrics["measures"]["validation"]["accuracy"] >= 0.9
    run = Run.open(tmp_path / "runs" / "by-head")
    assert set(run.to_arrow(["label"])["label"].to_pylist()) == {"colourful"}


def test_every_command_and_target_named_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    known = subprocess.run(
        [sys.executable, "-m", "onepass", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for name in set(re.findall(r"onepass ([a-z]+) ", text)) - {"turns"}:
        assert f" {name} " in known, name
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
