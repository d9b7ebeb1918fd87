"""One writer of a folder in an object store: two at once, one that died, one that was taken for dead."""

from __future__ import annotations

import threading
import time

import pytest

from common.errors import FolderError, LeaseLostError, StorageError
from common.lease import LEASE, LeaseTimeouts, hold_lease
from common.storage import to_path
from tests.helpers.s3 import Rule, Store

QUICK = LeaseTimeouts(renew_interval=0.1, expiry=1.0, confirm_delay=0.2)
FOLDER = "s3://bucket/run"


def never(waited: float, of: float) -> None:
    raise AssertionError("nobody was to be watched")


def test_it_stands_while_the_block_runs(s3: Store) -> None:
    with hold_lease(to_path(FOLDER), "extract", never, QUICK) as lease:
        first = s3.read(f"run/{LEASE}")
        time.sleep(0.5)
        assert s3.read(f"run/{LEASE}") != first  # renewed
        lease.check()
    assert s3.stored() == []


def test_a_second_one_is_refused(s3: Store) -> None:
    with (
        hold_lease(to_path(FOLDER), "extract", never, QUICK) as lease,
        pytest.raises(FolderError, match=r"s3://bucket/run: extract on .* is at work on it; wait"),
        hold_lease(to_path(FOLDER), "link", timeouts=QUICK),
    ):
        pass
    lease.check()
    assert s3.stored() == []


def test_one_of_a_process_that_died_is_watched_and_taken_over(s3: Store) -> None:
    s3.write(f"run/{LEASE}", b'{"token": "dead", "holder": "extract on a spot machine", "beat": 7}')
    waited: list[float] = []
    with hold_lease(to_path(FOLDER), "extract", lambda now, of: waited.append(now), QUICK) as lease:
        lease.check()
        assert b"dead" not in s3.read(f"run/{LEASE}")
    assert waited[0] < 0.5 < waited[-1]


def test_garbage_is_taken_over_as_well(s3: Store) -> None:
    s3.write(f"run/{LEASE}", b"\x00")
    with hold_lease(to_path(FOLDER), "extract", timeouts=QUICK):
        pass


def test_clocks_do_not_matter(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold_lease(to_path(FOLDER), "extract", never, QUICK) as lease:
        monkeypatch.setattr(time, "time", lambda: 4e9)
        with (
            pytest.raises(FolderError, match="is at work on it"),
            hold_lease(to_path(FOLDER), "x", timeouts=QUICK),
        ):
            pass
        monkeypatch.setattr(time, "time", lambda: 0.0)
        with (
            pytest.raises(FolderError, match="is at work on it"),
            hold_lease(to_path(FOLDER), "x", timeouts=QUICK),
        ):
            pass
        lease.check()


def test_a_holder_that_was_taken_for_dead_stops(s3: Store) -> None:
    with hold_lease(to_path(FOLDER), "extract", never, QUICK) as lease:
        lease.check()
        s3.write(f"run/{LEASE}", b'{"token": "another", "holder": "extract on b", "beat": 1}')
        time.sleep(0.5)
        with pytest.raises(LeaseLostError, match="another command took over"):
            lease.check()
    assert b"another" in s3.read(f"run/{LEASE}")  # it is not the first one's to remove


def test_of_many_at_once_one_holds_it(s3: Store) -> None:
    kept: list[int] = []
    refused: list[str] = []

    def work(number: int) -> None:
        try:
            with hold_lease(to_path(FOLDER), "extract", timeouts=QUICK) as lease:
                time.sleep(1.5)  # two may think so for a moment
                lease.check()
                kept.append(number)
        except (FolderError, LeaseLostError) as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(kept) == 1
    assert len(refused) == 7


def test_a_store_that_fails_for_a_while_does_not_lose_it(s3: Store) -> None:
    with hold_lease(to_path(FOLDER), "extract", never, QUICK) as lease:
        s3.faults(Rule("lost", method="PUT", times=1), Rule("error", times=2))
        time.sleep(3.0)
        lease.check()
    assert s3.counts()["error"] == 2


def test_a_store_that_is_dead_is_said(s3: Store) -> None:
    s3.faults(Rule("error", status=403))
    with (
        pytest.raises(StorageError, match="ACCESS_DENIED"),
        hold_lease(to_path(FOLDER), "x", timeouts=QUICK),
    ):
        pass
