"""How long commands take to start, as whole processes, and how soon an extraction answers.

    python -m benchmarks.startup [IMAGES] [--rows 200] [--rounds 3]

``onepass --help``, ``models describe``, ``inspect`` of a run, and ``extract`` of a small folder with
``lite0`` in one process and through Ray (drawn images without IMAGES): seconds from outside, the
first answer, and the largest process's own memory. The first round builds the engine and is not
counted.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work): --help 0.34 s and 12 MiB,
inspect 1.5 s, models describe 21 s, extract 18.7 s (first answer 8.1) and on Ray 31 s (17.9).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks import runner


def command(*words: str, extraction: bool = False) -> runner.Measures:
    """Seconds and own memory of ``onepass WORDS``; of an extraction also the first answer."""
    ran = runner.process([*runner.ONEPASS, *words], memory=True)
    measures = {"seconds": ran.seconds, "own MiB": ran.own_mib()}
    if extraction:
        # Counted by the command from its first statement on: its imports come before.
        measures["first answer, s"] = json.loads(ran.output)["first_answer_seconds"]
    return measures


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("images", type=Path, nargs="?", help="a folder of JPEG files")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--model", default="lite0")
    given = runner.parsed(parser, rows=50, model="tiny")
    report = runner.Report(f"start-up; extract of {given.rows} images with {given.model}")
    with runner.folder() as work:
        images = runner.link_images(given.images, work / "images", given.rows)

        def extract(executor: str, out: str) -> runner.Measures:
            shutil.rmtree(work / out, ignore_errors=True)
            words = ["extract", str(images), "--model", given.model, "--out", str(work / out)]
            return command(*words, "--executor", executor, "--json", extraction=True)

        extract("local", "run")
        report.run(
            {
                "onepass --help": lambda: command("--help"),
                "models describe": lambda: command("models", "describe", given.model),
                "inspect RUN": lambda: command("inspect", str(work / "run")),
                "extract, local": lambda: extract("local", "local"),
                "extract, Ray": lambda: extract("ray", "ray"),
            },
            given.rounds,
        )
    report.ratio("extract, Ray", "extract, local", "seconds")
    report.show()
    report.write(given.json)


if __name__ == "__main__":
    main()
