"""A camera's server is killed in the middle of a frame: the frame is there or not, never half.

A child links frames into one file and is killed with SIGKILL, inside the transaction or at a
random moment; then the request that it did not answer is sent again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.scenes import crowd, frames_of
from tracks.association.options import PRESETS
from tracks.live.session import LiveLinker
from tracks.live.store import LinkStore

ROOT = Path(__file__).parents[3]
FRAMES = 40


def linked(file: Path, numbers: range) -> dict[int, Any]:
    """The answers to some frames of the scene, each asked for under its own id."""
    store = LinkStore(file)
    linker = LiveLinker(store, PRESETS["online"])
    answers = {}
    for frame in frames_of(crowd(frames=FRAMES))[numbers.start : numbers.stop]:
        name = f"r{frame.number}"
        answer = linker.link(frame, request_id=name, digest=name.encode(), fingerprint="m")
        answers[frame.number or 0] = json.loads(answer.body)
    store.close()
    return answers


CHILD = """
import os, signal, sys
from pathlib import Path
from tracks.association.options import PRESETS
from tracks.live.session import LiveLinker
from tracks.live.store import LinkStore
from tracks.live.transaction import Transaction
from tests.helpers.scenes import crowd, frames_of
file, first, die = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
left = 2
def dying(name):
    real = getattr(Transaction, name)
    def killed(self, *args, **named):
        global left
        left -= 1
        if die == f"before {name}" and not left:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(self, *args, **named)
        if die == f"after {name}" and not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    setattr(Transaction, name, killed)
if die.endswith("save"):
    dying("save")
print("ready", flush=True)
linker = LiveLinker(LinkStore(file), PRESETS["online"])
for frame in frames_of(crowd(frames=40))[first:]:
    name = f"r{frame.number}"
    linker.link(frame, request_id=name, digest=name.encode(), fingerprint="m")
    print(frame.number, flush=True)
"""


def filmed(file: Path, first: int, die: str = "", *, answers: int = 0, after: float = 0) -> int:
    """Link from frame ``first`` on in a child until it is killed; the last one it answered.

    It is killed ``after`` some seconds after so many ``answers``, or ``die`` says where.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(file), str(first), die],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    lines = [str(first - 1), *(child.stdout.readline() for _ in range(answers))]
    if not die:
        time.sleep(after)
        child.send_signal(signal.SIGKILL)
    # Not communicate(): it would leave out what readline() has buffered.
    with child.stdout:
        rest = child.stdout.read()
    child.wait(60)
    assert child.returncode == -signal.SIGKILL or not die
    return int([*lines, *rest.split()][-1])


def last_frame(file: Path) -> int:
    store = LinkStore(file)
    state = LiveLinker(store, PRESETS["online"]).state("deep/er")
    store.close()
    return -1 if state is None else state.head.frame


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    return linked(tmp_path_factory.mktemp("whole") / "s", range(FRAMES))


@pytest.mark.parametrize("die", ["before save", "after save"])
def test_killed_inside_a_transaction_the_frame_is_not_there(
    tmp_path: Path, expected: dict[int, Any], die: str
) -> None:
    file = tmp_path / "s"
    answered = filmed(file, 0, die)
    assert answered == last_frame(file) == 0
    assert linked(file, range(1, FRAMES)) == {n: expected[n] for n in range(1, FRAMES)}


def test_killed_at_any_moment_a_retry_ends_right(tmp_path: Path, expected: dict[int, Any]) -> None:
    chance = np.random.default_rng(3)
    file, first, kills = tmp_path / "s", 0, 0
    while first < FRAMES:
        answered = filmed(
            file,
            first,
            answers=min(int(chance.integers(12)), FRAMES - first),
            after=chance.uniform(0, 0.005),
        )
        there = last_frame(file)
        # What was answered is there; one more may be, of which nobody was told.
        assert answered <= there <= answered + 1
        kills += there < FRAMES - 1
        # The one that nobody was told of is asked for again, and linked once.
        if answered + 1 < FRAMES:
            retried = linked(file, range(answered + 1, answered + 2))
            assert retried == {answered + 1: expected[answered + 1]}
        first = answered + 2
    assert kills >= 3
    assert linked(file, range(FRAMES - 1, FRAMES)) == {FRAMES - 1: expected[FRAMES - 1]}
