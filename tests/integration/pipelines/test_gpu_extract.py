"""The network on a GPU answers what the CPU does: formats, engines, threads, memory, and Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.config import ExtractConfig
from pipelines.engines import compiled
from pipelines.engines.candidates import compare
from pipelines.engines.engine import Answers, Engine
from pipelines.extract import extract
from pipelines.images.decode import PIXELS, decode_rows, unpack
from pipelines.model_info import EngineName, ModelInfo, ModelRequest, Precision
from pipelines.models.registry import examine, load_backbone
from pipelines.run import Run
from pipelines.sources.read import read_source
from tests.helpers.killed_runs import finish, kill_once, make_source
from tests.helpers.pictures import photo_folder
from tests.helpers.runs import make_config

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]

TINY = ModelRequest(spec="tiny")
LITE = ModelRequest(spec="lite0")
RESNET = ModelRequest(spec="timm:resnet18")
ROWS = 96
# Of two float32 results, by length of their difference. TF32, which keeps ten bits, is 3e-4 away.
FLOAT32 = 1e-4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), ROWS)


def pixels_of(photos: Path, facts: ModelInfo) -> np.ndarray:
    plan = read_source(str(photos))
    rows = decode_rows(plan.table, plan.root, {PIXELS: facts.preprocess})
    return unpack(rows, PIXELS, facts.preprocess)


@cache
def facts_of(request: ModelRequest) -> ModelInfo:
    return examine(request)


def on_cpu(request: ModelRequest, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and logits in float32 on the CPU, by the model's own parts, normalised in NumPy."""
    loaded = load_backbone(request)
    preprocess = loaded.preprocess
    scaled = (pixels / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    x = torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))
    backbone = loaded.backbone
    with torch.inference_mode():
        pooled = backbone.pool(backbone.features(x))
        return pooled.numpy(), backbone.model(x).numpy()


def distance(answers: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(answers - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("request_", [TINY, LITE, RESNET], ids=lambda request: request.spec)
def test_float32_is_the_cpus_float32(photos: Path, request_: ModelRequest) -> None:
    facts = facts_of(request_)
    pixels = pixels_of(photos, facts)
    embedding, logits = on_cpu(request_, pixels)
    run = Engine(facts, "fp32")
    assert run.device.type == "cuda"
    for rows in (1, 33, ROWS):
        answers = run(pixels[:rows])
        assert distance(answers.embedding, embedding[:rows]) < FLOAT32
        assert distance(answers.logits, logits[:rows]) < FLOAT32


@pytest.mark.parametrize("engine", ["eager", "compile"])
@pytest.mark.parametrize(
    # bf16 keeps eight bits of lite0: 0.9980 on a CPU that rounds as GPUs do; fp16 three bits more.
    ("precision", "least", "least_of_one"),
    [("bf16", 0.997, 0.98), ("fp16", 0.9999, 0.999)],
)
def test_half_formats_lose_what_is_stated(
    photos: Path, engine: EngineName, precision: Precision, least: float, least_of_one: float
) -> None:
    facts = facts_of(LITE)
    pixels = pixels_of(photos, facts)
    embedding, logits = on_cpu(LITE, pixels)
    run = Engine(facts, precision, engine, batch_rows=40)
    # Any number of rows, one and a single rest among them; kernels, and so roundings, differ.
    for rows in (ROWS, 1, 41):
        answers = run(pixels[:rows])
        assert np.isfinite(answers.embedding).all()
        audit = compare(answers.embedding, answers.logits, embedding[:rows], logits[:rows])
        assert audit.cosine_min > least_of_one
        if rows == ROWS:
            assert audit.cosine_mean > least


def test_a_compiled_network_is_the_eager_one_and_built_once(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(RESNET)
    pixels = pixels_of(photos, facts)
    embedding, logits = on_cpu(RESNET, pixels)
    answers = Engine(facts, "fp32", "compile")(pixels)
    assert distance(answers.embedding, embedding) < FLOAT32
    assert distance(answers.logits, logits) < FLOAT32
    assert compiled.is_cached(facts, "fp32", torch.device("cuda"))

    def never(of: ModelInfo) -> None:
        raise AssertionError("a built engine needs no network")

    monkeypatch.setattr("pipelines.engines.engine.load_verified", never)
    again = Engine(facts, "fp32", "compile", batch_rows=ROWS)(pixels)
    assert distance(again.embedding, embedding) < FLOAT32


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_calls_in_flight_get_their_own_answers(photos: Path, engine: EngineName) -> None:
    """A buffer that is used again too early shows as another image's answer."""
    facts = facts_of(RESNET)
    pixels = pixels_of(photos, facts)
    run = Engine(facts, "fp32", engine, batch_rows=16)
    expected = run(pixels).embedding
    worst: list[float] = []

    def ask(number: int) -> None:
        dice = np.random.default_rng(number)
        for _ in range(25):
            rows = dice.permutation(ROWS)[: int(dice.integers(1, ROWS))]
            answers = run(np.ascontiguousarray(pixels[rows])).embedding
            far = np.linalg.norm(answers - expected[rows], axis=1)
            worst.append(float((far / np.linalg.norm(expected[rows], axis=1)).max()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 75
    assert max(worst) < 1e-3


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_memory_that_runs_out_halves_the_batch(photos: Path, engine: EngineName) -> None:
    facts = facts_of(RESNET)
    pixels = pixels_of(photos, facts)
    big = np.resize(pixels, (1024, *pixels.shape[1:]))
    expected = Engine(facts, "fp32", engine, batch_rows=16)(pixels).embedding
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 2**30
    run = Engine(facts, "fp32", engine, batch_rows=1024)
    torch.cuda.set_per_process_memory_fraction(room / total)
    batches: list[int] = []
    try:
        answers = run(big, done=batches.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert sum(batches) == 1024
    assert max(batches) < 1024
    assert distance(answers.embedding[:ROWS], expected) < 1e-3


def stored(run: Run, name: str) -> np.ndarray:
    column: pa.Array = run.to_arrow([name])[name].combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1)


def test_extract_takes_a_format_that_classes_survive(photos: Path, tmp_path: Path) -> None:
    run = extract(ExtractConfig(source=photos, model="lite0"), tmp_path / "run").run
    assert run.verify() == ROWS
    manifest = run.manifest
    assert manifest.precision == "fp16", manifest.notes
    assert manifest.precision_audit is not None
    assert manifest.precision_audit.cosine_mean > 0.9999
    embedding, _ = on_cpu(LITE, pixels_of(photos, facts_of(LITE)))
    answers = Answers(stored(run, "embedding"), np.zeros((ROWS, 2)))
    assert compare(answers.embedding, answers.logits, embedding, answers.logits).cosine_min > 0.9995
    assert manifest.session is not None
    assert (manifest.session.actors, manifest.session.gpus) == (1, 1.0)


def test_two_actors_on_half_a_gpu_each_answer_as_the_cpu(photos: Path, tmp_path: Path) -> None:
    config = make_config(LITE, source=photos, gpus_per_actor=0.5, logits=True)
    run = extract(config, tmp_path / "run").run
    embedding, logits = on_cpu(LITE, pixels_of(photos, facts_of(LITE)))
    assert distance(stored(run, "embedding"), embedding) < FLOAT32
    assert distance(stored(run, "logits"), logits) < FLOAT32
    assert run.manifest.session is not None
    assert (run.manifest.session.actors, run.manifest.session.gpus) == (2, 1.0)


def test_a_gate_shares_the_gpu(photos: Path, tmp_path: Path) -> None:
    pixels = pixels_of(photos, facts_of(TINY))
    logits = on_cpu(TINY, pixels)[1]
    best = np.bincount(logits.argmax(1)).argmax()
    config = make_config(LITE, source=photos, gate="tiny", gate_label=f"tiny {best}")
    run = extract(config, tmp_path / "run").run
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    passes = share[:, best] >= 0.5
    clear = np.abs(share[:, best] - 0.5) > 1e-3
    has_class = np.asarray(run.to_arrow(["label"])["label"].is_valid())
    assert np.array_equal(has_class[clear], passes[clear])
    embedding, _ = on_cpu(LITE, pixels_of(photos, facts_of(LITE)))
    assert distance(stored(run, "embedding"), embedding) < FLOAT32


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    rows = 6000
    source, out, log = make_source(tmp_path / "images", rows), tmp_path / "run", tmp_path / "log"
    command = [
        *(sys.executable, "-m", "onepass", "extract", str(source)),
        *("--model", "lite0", "--precision", "fp32", "--engine", "eager", "--out"),
    ]
    committed = kill_once([*command, str(out)], out, 9, log)
    assert 0 < committed < rows
    finish([*command, str(out)], log)
    assert f"{committed} of them from before" in log.read_text()
    finish([*command, str(tmp_path / "whole")], log)
    run, whole = Run.open(out), Run.open(tmp_path / "whole")
    assert run.verify() == whole.verify() == rows
    assert distance(stored(run, "embedding"), stored(whole, "embedding")) < FLOAT32


def test_no_gpu_is_held_when_all_is_done(photos: Path, tmp_path: Path) -> None:
    """What a command leaves behind on the card: nothing."""
    code = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from pipelines.extract import extract\n"
        "from pipelines.config import ExtractConfig\n"
        "config = ExtractConfig(source=sys.argv[1], model='tiny')\n"
        "run = extract(config, Path(sys.argv[2])).run\n"
        "import torch\n"
        "print(json.dumps([run.manifest.rows.written, torch.cuda.memory_allocated()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(photos), str(tmp_path / "run")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written, held = json.loads(done.stdout.splitlines()[-1])
    assert written == ROWS
    assert held < 2**20
