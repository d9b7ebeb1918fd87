"""``extract`` on a folder, telling when it first answered and how fast it then was:

    _extract.py FOLDER MODEL OUT [ENGINE [PRECISION [EXECUTOR]]]

MODEL is a model request as JSON. ``steady`` is taken between whole blocks while all lanes or actors
are at work, ``between`` from the first answer to the last; ``core ms`` are those of a core that this
process spent on an image between.
"""

import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from cluster.session import local_cores
from pipelines.engines.engine import this_device
from pipelines.extract import Options, Progress, extract
from pipelines.model_info import ModelRequest
from pipelines.run import Run


def steady_rate(run: Run, actors: int) -> float:
    """Images a second while all actors are warm and none has run out of work.

    An actor decodes a block and then answers it, so answers come in bursts; only whole blocks
    tell a rate. Each is one file, so it is measured from file to file, over the same number
    of blocks for each actor: from everyone's first to the last that leaves everyone another.
    """
    files = sorted(run.files(), key=lambda file: file.stat().st_mtime_ns)
    first = actors - 1
    last = len(files) - 1 - actors
    last -= (last - first) % actors
    if last <= first:
        sys.exit(f"{len(files)} blocks are too few for a steady state of {actors} actors")
    rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files[first + 1 : last + 1])
    ends = [files[at].stat().st_mtime_ns / 1e9 for at in (first, last)]
    return rows / (ends[1] - ends[0])


def main() -> None:
    source, model, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    engine, precision, executor = [*sys.argv[4:], *["auto"] * 3][:3]
    began = time.time()
    spent: list[tuple[int, float]] = []  # rows, and seconds of a core until then

    def report(progress: Progress) -> None:
        if progress.stage == "extracting" and progress.done:
            spent.append((progress.done, time.process_time()))

    outcome = extract(
        source,
        ModelRequest.model_validate_json(model),
        out,
        Options(engine=engine, precision=precision, executor=executor),
        report=report,
    )
    manifest = outcome.run.manifest
    assert manifest.session is not None
    actors = local_cores() if this_device().type == "cpu" else 1
    print(
        json.dumps(
            {
                "first": began + (outcome.first_answer_seconds or 0),
                "steady": steady_rate(outcome.run, actors),
                "between": manifest.session.rows_a_second,
                "core ms": 1000 * (spent[-1][1] - spent[0][1]) / (spent[-1][0] - spent[0][0]),
                "engine": manifest.engine,
                "precision": manifest.precision,
                "notes": manifest.notes,
            }
        )
    )


if __name__ == "__main__":
    main()
