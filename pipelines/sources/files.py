"""Work on many files at once, while most of the time is waiting for a disk or a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 16  # files, where nothing is computed
_REPORT_FILES = 500

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_files(
    function: Callable[[Item], Result],
    files: Sequence[Item],
    threads: int,
    report: Callable[[int, int], None],
) -> list[Result]:
    """The result of ``function`` for each file, in their order.

    Args:
        function: takes a file, in a thread.
        files: their names or paths.
        threads: files at once.
        report: receives files done and files in all.

    Raises:
        Exception: what ``function`` raised for the first file for which it did.
    """
    results: list[Result] = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(function, files):
            results.append(result)
            if len(results) % _REPORT_FILES == 0:
                report(len(results), len(files))
    return results
