"""Live linkers on files of their own, and their answers beside links made at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracks.association.linker import Links
from tracks.association.options import PRESETS, LinkOptions
from tracks.live.frame import Frame
from tracks.live.session import LiveLinker
from tracks.live.store import LinkStore

_opened: list[LinkStore] = []


def close_all() -> None:
    """Close the files of all linkers that ``live`` made."""
    while _opened:
        _opened.pop().close()


def live(
    file: Path, options: LinkOptions | None = None, *, wait_seconds: float = 10, **more: Any
) -> LiveLinker:
    _opened.append(LinkStore(file, wait_seconds=wait_seconds))
    return LiveLinker(_opened[-1], options or PRESETS["online"], **more)


def ask(linker: LiveLinker, frame: Frame, request: str, fingerprint: str = "model") -> Any:
    answer = linker.link(
        frame, request_id=request, digest=request.encode(), fingerprint=fingerprint
    )
    return json.loads(answer.body)


def same(answers: list[Any], whole: Links) -> None:
    rows = [row for answer in answers for row in answer["detections"]]
    assert len(rows) == len(whole.track)
    for at, row in enumerate(rows):
        track, previous = whole.track[at], whole.previous[at]
        assert row["detection_id"] == f"d{at}"
        assert row["track_id"] == (None if track < 0 else f"deep/er:{track:05d}")
        assert row["position"] == (None if track < 0 else whole.position[at])
        assert row["previous_detection_id"] == (None if previous < 0 else f"d{previous}")
        terms = [row[f"cost_{term}"] for term in ("feature", "iou", "area", "distance")]
        expected = [*whole.terms[at], whole.cost[at], whole.margin[at]]
        for value, number in zip([*terms, row["cost"], row["margin"]], expected, strict=True):
            assert value == (None if np.isnan(number) else pytest.approx(number, abs=1e-12))
