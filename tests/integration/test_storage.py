"""Object stores as paths, on a real S3 server that fails now and then."""

from __future__ import annotations

import pytest

from cluster.storage import place
from tests.s3 import Rule, Store


@pytest.mark.parametrize(
    "rule",
    [
        Rule("error", times=2),
        Rule("error", status=500, times=2),
        Rule("lost", times=2),
        Rule("cut", times=2),
        Rule("stall", times=1, seconds=1),
    ],
    ids=lambda rule: f"{rule.kind}{rule.status}",
)
def test_faults_are_tried_again(s3: Store, rule: Rule) -> None:
    file = place("s3://bucket/folder/file")
    s3.faults(rule)
    file.write_bytes(b"12345" * 100_000)
    assert file.read_bytes() == b"12345" * 100_000
    assert s3.counts()[rule.kind] == rule.times
    assert s3.read("folder/file") == b"12345" * 100_000
