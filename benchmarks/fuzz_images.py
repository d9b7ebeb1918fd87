"""Damaged image files through the project's own decoders: no exception but an error row, no crash.

    python -m benchmarks.fuzz_images [--files 50000] [--begin 0] [--seed 1] [--upload]

Each file of ``damaged_files`` is read as a row of a run is, half of them with ``damaged="keep"``, in a
worker process with a time limit: a decoder that crashes or hangs is named with its file. With ``--upload``
each is sent to ``onepass serve`` instead, half of them to be searched with, half as a frame of a live
camera: every answer is a success or the client's error, 4xx. Exit code 1 where one was not.

Printed last on 2026-11-30, 2 cores (AMD EPYC), 50,000 files of 45 kinds; ICO, PCX and SGI are no known formats:

    all              50000 files, 16434 decoded, 23909 damaged image, 4013 not an image, 1817 kept,
    1535 damaged video, 754 damaged tensors, 598 unknown scale, 374 missing frame, 308 unsupported
    image, 140 too large, 118 no pictures
    slowest: 0.1 s (gif moving, file 2531)
    0 exception, 0 crash, 0 hang

With --upload, 30,000 files: 8859 answered with 200, all others with 422 (15426 damaged image, 5084 not an
image, 364 unknown scale, 177 unsupported image, 90 too large); no decoder failed; the slowest took 1.2 s.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pyarrow as pa

from benchmarks import runner, serve
from benchmarks.damaged_files import kinds, made
from cluster.children import Child, ChildDiedError
from pipelines.config import OnDamage
from pipelines.detections import IMAGE_DAMAGE, complete
from pipelines.images.decode import PIXELS, decode_rows, unpack
from pipelines.model_info import Preprocess

SIZE = Preprocess(input_size=(32, 32), resize="crop", mean=(0.5,) * 3, std=(0.5,) * 3)
SECONDS = 60.0  # of a file
CLIENTS = 4  # that upload at once
BAD = ("exception", "crash", "hang")


class Outcome(NamedTuple):
    """What became of a file."""

    kind: str
    outcome: str  # "decoded", the kind of an error, or one of BAD
    detail: str
    seconds: float


def answer(given: tuple[int, int]) -> Outcome:
    """Make a file, and read it as a row of a run is read; in a worker.

    Args:
        given: seed and number of the file.
    """
    seed, number = given
    name, data = made(seed, number)
    keep: OnDamage = "keep" if number // len(kinds()) % 2 else "error"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(data)
        image = f"{name}#frame=3" if "." in name else name
        row = complete(pa.table({"image": [image]}), where="made")
        started = time.monotonic()
        try:
            decoded = decode_rows(row, Path(folder), {PIXELS: SIZE}, damaged=keep)
            error = decoded["error"][0].as_py()
            pixels = unpack(decoded, PIXELS, SIZE)
            assert pixels.shape == (1, *SIZE.input_size, 3)
        except Exception as raised:  # what the benchmark is for
            seconds = time.monotonic() - started
            return Outcome(name, "exception", f"{type(raised).__name__}: {raised}", seconds)
        seconds = time.monotonic() - started
    if error is not None:
        return Outcome(name, error.partition(":")[0], error, seconds)
    damage = decoded[IMAGE_DAMAGE][0].as_py() if keep == "keep" else None
    return Outcome(name, "kept" if damage else "decoded", "", seconds)


Ask = Callable[[int], Outcome]


@contextmanager
def reading(seed: int) -> Iterator[Ask]:
    """Reads files by number, in a worker process."""
    child = Child()

    def ask(number: int) -> Outcome:
        nonlocal child
        started = time.monotonic()
        try:
            outcome: Outcome = child.call(answer, (seed, number), seconds=SECONDS)
        except ChildDiedError as error:
            seconds = time.monotonic() - started
            what = "hang" if seconds >= SECONDS else "crash"
            child.close()
            child = Child()
            return Outcome(made(seed, number)[0], what, str(error), seconds)
        return outcome

    try:
        child.call(answer, (seed, 0))  # torch and FFmpeg take seconds
        yield ask
    finally:
        child.close()


@contextmanager
def uploading(seed: int, port: int) -> Iterator[Ask]:
    """Sends files by number to a server."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=SECONDS) as http:

        def send(data: bytes, number: int) -> httpx.Response:
            if number // len(kinds()) % 2:
                return http.post("/search/image", files={"image": data})
            image = base64.b64encode(data).decode()
            body = {"request_id": str(number), "sequence": f"{seed}", "image": image}
            boxes = [{"box": [1, 2, 60, 70]}]
            return http.post("/link", json=body | {"box_frame": "stored", "detections": boxes})

        def ask(number: int) -> Outcome:
            name, data = made(seed, number)
            started = time.monotonic()
            try:
                response = send(data, number)
            except httpx.HTTPError as error:
                what = "hang" if isinstance(error, httpx.TimeoutException) else "crash"
                return Outcome(name, what, str(error), time.monotonic() - started)
            seconds = time.monotonic() - started
            if response.is_success:
                return Outcome(name, "decoded", "", seconds)
            if not response.is_client_error:
                return Outcome(name, "exception", response.text, seconds)
            error = response.json()["error"]
            reason = error["message"].partition(":")[0]
            what = reason if error["code"] == "invalid_image" else error["code"]
            return Outcome(name, f"{response.status_code} {what}", response.text, seconds)

        yield ask


class Fuzz:
    """What became of each file.

    Args:
        numbers: of the files.
        workers: each asks for one after another.
    """

    def __init__(self, numbers: range, workers: list[AbstractContextManager[Ask]]) -> None:
        self._todo = iter(numbers)
        self._workers = workers
        self._lock = threading.Lock()
        self.outcomes: dict[str, Counter[str]] = {name: Counter() for name in kinds()}
        self.slowest = (0.0, "")
        self.bad: list[str] = []

    def run(self) -> None:
        """Read all files."""
        threads = [threading.Thread(target=self._work, args=[worker]) for worker in self._workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, worker: AbstractContextManager[Ask]) -> None:
        with worker as ask:
            while (number := self._next()) is not None:
                self._count(number, ask(number))

    def _next(self) -> int | None:
        with self._lock:
            return next(self._todo, None)

    def _count(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes[outcome.kind][outcome.outcome] += 1
            self.slowest = max(self.slowest, (outcome.seconds, f"{outcome.kind}, file {number}"))
            if outcome.outcome in BAD:
                self.bad.append(
                    f"{outcome.kind}, file {number}: {outcome.outcome}: {outcome.detail}"
                )

    def show(self) -> None:
        """Print a line a kind, and every file that is none."""
        total = Counter[str]()
        for name, outcomes in self.outcomes.items():
            total += outcomes
            _print(name, outcomes)
        _print("all", total)
        print("\n".join(self.bad))
        print(f"slowest: {self.slowest[0]:.1f} s ({self.slowest[1]})")
        print(", ".join(f"{total[name]} {name}" for name in BAD))


def _print(name: str, outcomes: Counter[str]) -> None:
    errors = [f"{count} {what}" for what, count in outcomes.most_common() if what != "decoded"]
    print(
        f"{name:18}{outcomes.total():7} files, {outcomes['decoded']:6} decoded, {', '.join(errors)}"
    )


@contextmanager
def serving() -> Iterator[int]:
    """The port of a server with a small network."""
    with runner.folder() as work:
        images = runner.link_images(None, work / "images", 20)
        run, index = str(work / "run"), work / "index"
        runner.process([*runner.ONEPASS, "extract", str(images), "--model", "tiny", "--out", run])
        runner.process([*runner.ONEPASS, "index", "build", run, "--out", str(index)])
        with serve.serving("onepass", index, work) as port:
            yield port
            print((work / "onepass.log").read_text().count("the decoder failed"), "decoders failed")


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("--files", type=int, default=50_000, help="default: 50000")
    parser.add_argument("--begin", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--upload", action="store_true", help="to a server, instead of reading")
    given = runner.parsed(parser, files=500)
    numbers = range(given.begin, given.begin + given.files)
    if given.upload:
        with serving() as port:
            fuzz = Fuzz(numbers, [uploading(given.seed, port) for _ in range(CLIENTS)])
            fuzz.run()
    else:
        fuzz = Fuzz(numbers, [reading(given.seed) for _ in range(runner.CORES)])
        fuzz.run()
    print(f"Damaged files, seed {given.seed}\n{runner.machine()}")
    fuzz.show()
    if given.json is not None:
        given.json.write_text(json.dumps({"outcomes": fuzz.outcomes, "bad": fuzz.bad}, indent=2))
    read = sum(outcomes.total() for outcomes in fuzz.outcomes.values())
    sys.exit(bool(fuzz.bad) or read < given.files)


if __name__ == "__main__":
    from benchmarks import fuzz_images  # by its name, so that workers find its functions

    fuzz_images.main()
