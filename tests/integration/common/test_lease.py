"""One writer of a folder in an object store: two at once, a dead one, one that was taken for dead."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.errors import FolderError, LeaseLostError, StorageError
from common.lease import LEASE, LeaseTimeouts, hold_lease
from common.storage import to_path
from tests.helpers.s3 import Rule, Store

QUICK = LeaseTimeouts(renew_interval=0.1, expiry=1.0, confirm_delay=0.2)
FOLDER = "s3://bucket/run"


def no_wait(waited: float, limit: float) -> None:
    raise AssertionError("there was no lease to watch")


def test_it_is_renewed_while_the_block_runs_and_then_removed(s3: Store) -> None:
    with hold_lease(to_path(FOLDER), "extract", no_wait, QUICK) as lease:
        first = s3.read(f"run/{LEASE}")
        time.sleep(0.5)
        assert s3.read(f"run/{LEASE}") != first
        lease.check()
    assert s3.stored() == []


@pytest.mark.parametrize("clock", [None, 4e9, 0.0])
def test_a_second_process_is_refused_whatever_its_clock(
    s3: Store, monkeypatch: pytest.MonkeyPatch, clock: float | None
) -> None:
    with hold_lease(to_path(FOLDER), "extract", no_wait, QUICK) as lease:
        if clock is not None:
            monkeypatch.setattr(time, "time", lambda: clock)
        with (
            pytest.raises(FolderError, match=f"{FOLDER}: extract on "),
            hold_lease(to_path(FOLDER), "link", timeouts=QUICK),
        ):
            pass
        lease.check()
    assert s3.stored() == []


@pytest.mark.parametrize(
    "left", [b'{"token": "dead", "holder": "extract on a spot machine", "beat": 7}', b"\x00"]
)
def test_the_lease_of_a_dead_process_is_watched_and_taken_over(s3: Store, left: bytes) -> None:
    s3.write(f"run/{LEASE}", left)
    waits: list[float] = []
    with hold_lease(to_path(FOLDER), "extract", lambda now, _: waits.append(now), QUICK) as lease:
        lease.check()
        assert left not in s3.read(f"run/{LEASE}")
    assert waits[0] < 0.5 < waits[-1]


def test_a_holder_that_was_taken_for_dead_stops(s3: Store) -> None:
    with hold_lease(to_path(FOLDER), "extract", no_wait, QUICK) as lease:
        lease.check()
        s3.write(f"run/{LEASE}", b'{"token": "another", "holder": "extract on b", "beat": 1}')
        time.sleep(0.5)
        with pytest.raises(LeaseLostError, match=FOLDER):
            lease.check()
    assert b"another" in s3.read(f"run/{LEASE}")  # it belongs to the other process


def test_of_many_at_once_one_holds_it(s3: Store) -> None:
    def holds(_: int) -> bool:
        try:
            with hold_lease(to_path(FOLDER), "extract", timeouts=QUICK) as lease:
                time.sleep(1.5)  # two may take it for theirs for a moment
                lease.check()
                return True
        except (FolderError, LeaseLostError):
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(holds, range(8))) == 1


def test_a_store_that_fails_for_a_while_does_not_lose_it(s3: Store) -> None:
    with hold_lease(to_path(FOLDER), "extract", no_wait, QUICK) as lease:
        s3.faults(Rule("lost", method="PUT", times=1), Rule("error", times=2))
        time.sleep(3.0)
        lease.check()
    assert s3.counts()["error"] == 2


def test_a_store_that_refuses_is_a_storage_error(s3: Store) -> None:
    s3.faults(Rule("error", status=403))
    with (
        pytest.raises(StorageError, match="ACCESS_DENIED"),
        hold_lease(to_path(FOLDER), "x", timeouts=QUICK),
    ):
        pass
