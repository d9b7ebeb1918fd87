from __future__ import annotations

import pytest

from onepass.cli.flags import with_flags


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        (
            "`frames=5` is for videos; set `kind='video'`",
            "--frames 5 is for videos; set --source video",
        ),
        ("`hdf5=True` and `val_share` differ", "--hdf5 and --val-share differ"),
        ("`source='photos/'` does not exist", "photos/ does not exist"),
        ("give `source`", "give SOURCE"),
        ("`wait=False` with `k=0`", "--no-wait with -k 0"),
        ("a `B` and a lone ` stay", "a `B` and a lone ` stay"),
    ],
)
def test_parameters_become_options(message: str, typed: str) -> None:
    assert with_flags(message) == typed
