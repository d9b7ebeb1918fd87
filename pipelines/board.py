"""The board: where the stages of a running extraction report what they did.

A Ray actor of its own, so that reporting never blocks a stage, and a module of its own, so
that its process need not import torch.
"""

from __future__ import annotations

import time
from typing import NamedTuple


class Tally(NamedTuple):
    """What the board knows: rows through each stage, and when answers came."""

    decoded: int = 0
    answered: int = 0
    first_answer: float | None = None
    first_rows: int = 0  # that the first answer was of
    last_answer: float | None = None


class Board:
    """Where stages report. A Ray actor of its own, so that reporting never blocks them."""

    def __init__(self) -> None:
        self._tally = Tally()

    def decoded(self, rows: int) -> None:
        self._tally = self._tally._replace(decoded=self._tally.decoded + rows)

    def answered(self, rows: int) -> None:
        now, before = time.time(), self._tally
        self._tally = before._replace(
            answered=before.answered + rows,
            first_answer=before.first_answer or now,
            first_rows=before.first_rows or rows,
            last_answer=now,
        )

    def tally(self) -> Tally:
        return self._tally
