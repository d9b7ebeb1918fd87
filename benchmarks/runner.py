"""What all benchmarks share: rounds of contenders in turn, whole processes, memory, tables, JSON.

A contender is a function without arguments that returns its measures as ``{name: number}``. All
contenders run once a round, in the other order every second round, so that a machine that slows
down slows all of them. A table shows the median of each measure and its range over the rounds;
a ratio is taken within each round.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.processes import kill_all, process_tree, title_of

ROOT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0))
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
ONEPASS = [sys.executable, "-m", "onepass"]
SAMPLE_SECONDS = 0.1
MIB = 2**20
Measures = dict[str, float]
Contender = Callable[[], Measures]


def arguments(doc: str | None, *, rounds: int = 3) -> argparse.ArgumentParser:
    """A parser with what every script takes: ``--rounds``, ``--quick`` and ``--json``."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, one round")
    parser.add_argument("--json", type=Path, help="write every measure of every round to this file")
    return parser


def parsed(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """The command line; with ``--quick`` one round, and the values of ``quick``."""
    given = parser.parse_args()
    if given.quick:
        vars(given).update({"rounds": 1, **quick})
    return given


def machine() -> str:
    """One line about where and when the figures were measured."""
    about = Path("/proc/cpuinfo")
    names = set(re.findall(r"model name\s*: (.*)", about.read_text() if about.exists() else ""))
    return f"{time.strftime('%Y-%m-%d')}, {CORES} cores, {', '.join(names) or platform.machine()}"


@dataclass
class Report:
    """Measures of every contender and round, printed as tables and kept as JSON."""

    title: str
    rounds: dict[str, list[Measures]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # whatever else belongs to the figures

    def run(self, contenders: Mapping[str, Contender], rounds: int) -> None:
        """Run all ``contenders`` in turn, ``rounds`` times; progress goes to stderr."""
        for number in range(rounds):
            order = list(contenders)
            for name in order if number % 2 == 0 else reversed(order):
                measures = contenders[name]()
                self.rounds.setdefault(name, []).append(measures)
                numbers = ", ".join(f"{key} {value:.4g}" for key, value in measures.items())
                print(f"round {number + 1}, {name}: {numbers}", file=sys.stderr, flush=True)
        for name in contenders:
            self.rounds[name] = self.rounds.pop(name)  # in the order of the contenders

    def median(self, name: str, measure: str) -> float:
        """The median over the rounds of one measure of a contender."""
        return statistics.median(measures[measure] for measures in self.rounds[name])

    def ratio(self, first: str, second: str, measure: str) -> None:
        """Take a measure of ``first`` over the same one of ``second``, round by round."""
        pairs = zip(self.rounds[first], self.rounds[second], strict=True)
        ratios = [one[measure] / other[measure] for one, other in pairs]
        self.ratios[f"{measure}: {first} / {second}"] = ratios

    def show(self) -> None:
        """Print title, machine, a line for each measure of each contender, and the ratios."""
        print(f"\n{self.title}\n{machine()}; medians (min..max)")
        for name, rounds in self.rounds.items():
            for measure in rounds[0]:
                print(f"  {name + ': ' + measure:<56}{spread(one[measure] for one in rounds)}")
        for name, ratios in self.ratios.items():
            print(f"  {name:<56}{spread(ratios)}")

    def write(self, path: Path | None) -> None:
        """Write everything as JSON, where a path is given."""
        if path is not None:
            told = json.dumps({"machine": machine(), **vars(self)}, indent=2, default=str)
            path.write_text(told + "\n")


def spread(values: Iterable[float]) -> str:
    """Median (lowest..highest), four significant digits, thousands in full."""
    known = list(values)
    middle, low, high = (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        for value in (statistics.median(known), min(known), max(known))
    )
    return f"{middle:>9} ({low}..{high})"


@dataclass(frozen=True)
class Ran:
    """A whole process with everything it started."""

    began: float  # seconds since the epoch
    seconds: float
    output: str  # its stdout
    # Title and most anonymous memory (RssAnon, MiB: it belongs to no other process) of each.
    peaks: Sequence[tuple[str, float]] = ()

    def answer(self) -> dict[str, Any]:
        """The JSON of the last line of its output."""
        found: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return found

    def own_mib(self) -> float:
        """The most memory that any of its processes took for itself."""
        return max(own for _, own in self.peaks)


def process(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, memory: bool = False
) -> Ran:
    """Run a command to its end; with ``memory``, look at all its processes ten times a second.

    Raises:
        RuntimeError: it failed; the message ends with the last of its stderr.
    """
    peaks: dict[tuple[int, str], tuple[str, float]] = {}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        began, clock = time.time(), time.perf_counter()
        how: dict[str, Any] = {"cwd": ROOT, "env": {**ENVIRONMENT, **(env or {})}}
        running = subprocess.Popen(command, stdout=out, stderr=error, start_new_session=True, **how)
        try:
            while memory and running.poll() is None:
                _look(process_tree(running.pid), peaks)
                time.sleep(SAMPLE_SECONDS)
            running.wait()
            seconds = time.perf_counter() - clock
        finally:
            kill_all(running)
        out.seek(0)
        error.seek(0)
        if running.returncode:
            last = error.read()[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with {running.returncode}: {last}")
        return Ran(began, seconds, out.read(), list(peaks.values()))


def _look(pids: Mapping[int, str], peaks: dict[tuple[int, str], tuple[str, float]]) -> None:
    for pid, born in pids.items():
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has ended
            continue
        own = sum(int(size) / 1024 for size in re.findall(r"RssAnon:\s*(\d+)", status))
        title, most = peaks.get((pid, born), ("", 0.0))
        now = title_of(pid)  # empty of one that has just ended
        # Ray renames a worker by its work, and calls it idle afterwards.
        title = title if title and (not now or "::IDLE" in now) else now
        peaks[pid, born] = (title, max(own, most))


def call(
    function: Callable[..., Any],
    *,
    env: Mapping[str, str] | None = None,
    memory: bool = False,
    **arguments: Any,
) -> Ran:
    """Run a module's function as a whole process; it returns a dictionary for ``Ran.answer``."""
    return process(child_command(function, arguments), env=env, memory=memory)


def together(
    function: Callable[..., Any], processes: int, **arguments: Any
) -> list[dict[str, Any]]:
    """Run a function in several processes that go on at one moment; what each returns.

    The function calls ``wait_for_the_others`` once it is ready to be measured.
    """
    command = child_command(function, arguments)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes) for _ in range(processes)
    ]
    try:
        for child in running:
            assert child.stdout
            if child.stdout.readline() != "ready\n":
                raise RuntimeError(f"{' '.join(command)} failed")
        for child in running:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        return [json.loads(child.communicate()[0].splitlines()[-1]) for child in running]
    finally:
        for child in running:
            child.kill()
            child.wait()


def wait_for_the_others() -> None:
    """In a child of ``together``: say that it is ready, and wait until all are."""
    print("ready", flush=True)
    sys.stdin.readline()


def child_command(function: Callable[..., Any], arguments: Mapping[str, Any]) -> list[str]:
    module = function.__module__
    if module == "__main__":  # the script itself, run with -m
        spec = sys.modules["__main__"].__spec__
        assert spec is not None
        module = spec.name
    name, given = f"{module}:{function.__name__}", json.dumps(arguments, default=str)
    return [sys.executable, "-c", "import benchmarks.runner as r; r.child()", name, given]


def child() -> None:
    """In a child: call the function that the command line names and print what it returns."""
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    print(json.dumps(function(**json.loads(sys.argv[2]))), flush=True)


@contextmanager
def folder(given: Path | None = None) -> Iterator[Path]:
    """A folder to work in: the given one, which is kept, or one that is removed at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="onepass-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def link_images(source: Path | None, target: Path, count: int) -> Path:
    """``count`` distinct JPEG files: those under ``source`` in turn, or drawn ones without a source."""
    from tests.helpers.pictures import photo_folder

    source = source or photo_folder(target.with_name(f"{target.name}-drawn"), min(count, 200))
    files = sorted(f for f in source.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        sys.exit(f"{source} holds no JPEG files")
    target.mkdir(parents=True)
    for number in range(count):
        (target / f"{number:06d}.jpg").symlink_to(files[number % len(files)].resolve())
    return target
