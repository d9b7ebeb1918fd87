"""``extract`` on a folder, telling when it first answered and how fast it then was."""

import json
import sys
import time
from pathlib import Path

from pipelines.extract import Progress, extract
from pipelines.facts import ModelRequest


def main() -> None:
    source, model, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    began = time.time()
    seen: list[tuple[float, int]] = []

    def look(progress: Progress) -> None:
        if progress.stage == "extracting" and progress.done:
            seen.append((time.time(), progress.done))

    outcome = extract(source, ModelRequest(spec=f"timm:{model}"), out, report=look)
    rows = outcome.run.manifest.rows.planned
    # Steady: all actors are warm, none has run out of work.
    steady = [(t, n) for t, n in seen if 0.15 * rows <= n <= 0.92 * rows]
    rate = (steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0])
    first = began + (outcome.first_answer_seconds or 0)
    print(json.dumps({"first": first, "steady": rate}))


main()
