from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.extras import optional
from migration.plots import overlap_plot
from pipelines.heads.config import TrainConfig
from pipelines.heads.train import train
from tracks.boxes import TrackBoxes
from tracks.evaluation.scores import evaluate
from tracks.pictures.annotate import Annotator

TRACKED = TrackBoxes(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([[0.0, 0, 1, 1]]))


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        (
            "sklearn",
            "probe",
            lambda: train(TrainConfig(source="run", labels="label"), Path("h.pt")),
        ),
        ("matplotlib", "migrate", lambda: overlap_plot(None)),  # type: ignore[arg-type]
        ("supervision", "tracks", lambda: Annotator((10, 10))),
        ("trackers", "tracks", lambda: evaluate(TRACKED, TRACKED)),
    ],
)
def test_the_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str, use: Callable[[], object]
) -> None:
    for loaded in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'onepass\[{extra}\]'"):
        use()


def test_a_missing_system_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_package.py").write_text("raise ImportError('libGL.so.1: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"libGL\.so\.1: no such file"):
        optional("broken_package", "tracks")
