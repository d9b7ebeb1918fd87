"""Values that the options of linking refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from common.errors import InputError
from common.json_models import configure
from tracks.association.options import LinkOptions


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"feature_weight": -1.0}, "feature_weight=-1.0"),
        ({"iou_weight": math.nan}, "iou_weight=nan"),
        (
            dict.fromkeys(("feature_weight", "iou_weight", "area_weight", "distance_weight"), 0.0),
            "all four",
        ),
        ({"max_cost": 0.0}, "max_cost=0.0"),
        ({"max_gap_frames": -1}, "max_gap_frames=-1"),
        ({"max_gap_seconds": 0.0}, "max_gap_seconds=0.0"),
        ({"appearance_memory": 1.0}, "appearance_memory=1.0"),
        ({"assignment": "best"}, "assignment='best'"),
    ],
)
def test_options_say_what_is_wrong(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        configure(LinkOptions, **wrong)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_options_of_a_file_are_read_as_editors_save_it(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "options.json"
    file.write_bytes(json.dumps({"max_cost": 0.25}).encode(encoding))
    assert LinkOptions.read(file).max_cost == 0.25
