"""How far each engine and precision is from exact float32, and what ``auto`` takes:

    _agreement.py FOLDER ROWS SPEC [CHECKPOINT MEAN STD]

Exact is eager float32. ``auto`` is asked through ``pipelines.engines.resolve``, once
for each engine, with a sample of the same images, as ``extract`` asks it.
"""

import json
import sys

import numpy as np
import torch

from pipelines.engines import openvino
from pipelines.engines.engine import Engine
from pipelines.engines.precision import compare
from pipelines.engines.resolve import resolve
from pipelines.engines.unresolved import Unresolved
from pipelines.images.decode import PIXELS, decode_rows, unpack
from pipelines.model_info import ModelRequest, Outputs, Reading
from pipelines.models.registry import examine
from pipelines.request import Command
from pipelines.sources.plan import read_source

ENGINES = ("eager", "compile", *(("openvino",) if openvino.is_installed() else ()))


def main() -> None:
    source, rows, spec = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    own = {}
    if sys.argv[4:]:
        mean, std = map(float, sys.argv[5:7])
        own = {"checkpoint": sys.argv[4], "mean": (mean,) * 3, "std": (std,) * 3}
    model = ModelRequest(spec=spec, **own)
    facts = examine(model)
    how = facts.preprocess
    plan = read_source(source)
    table = _evenly(plan.table, rows)
    decoded = decode_rows(table, plan.root, {PIXELS: how})
    good = np.asarray(decoded["error"].is_null())
    pixels = unpack(decoded, PIXELS, how)[good]
    torch.set_num_threads(1)  # what an actor has
    exact = Engine(facts, "fp32", "eager")(pixels)
    found = []
    for engine in ENGINES:
        for precision in ("fp32", "bf16"):
            said = Engine(facts, precision, engine)(pixels)
            audit = compare(said.embedding, said.logits, exact.embedding, exact.logits)
            found.append({"engine": engine, "precision": precision, **audit.model_dump()})
    auto = {}
    for engine in ENGINES:
        command = Command(
            source=source,
            reading=Reading(),
            model=model,
            gate=None,
            inputs={},
            precision="auto",
            engine=engine,
            top_k=5,
            outputs=Outputs(),
            hdf5=False,
        )
        sample = _evenly(plan.table, 64)
        unresolved = Unresolved(command, sample, str(plan.root), rows, earlier=None)
        auto[engine] = resolve(unresolved, lanes=1).resolved.request.precision
    print(json.dumps({"spec": spec, "compared": found, "auto": auto}))


def _evenly(table, rows: int):
    at = np.linspace(0, table.num_rows - 1, min(rows, table.num_rows)).round().astype(int)
    return table.take(at)


main()
