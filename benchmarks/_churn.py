"""Change a served index without end: add, delete, compact, roll back, promote, reload after each.

    _churn.py INDEX RUN VERSION WHERE PORT

Begins and ends each round at VERSION, so that RUN can be added again. Prints a line of JSON a
change, and stops after the one under way when stdin closes.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import _common  # noqa: F401  (makes 'index' the package)

from index.build.update import add_runs, compact, delete_rows
from index.build.versions import promote, rollback
from index.search.filters import Filter
from index.storage.layout import current_version


def main() -> None:
    index, run, version, where, port = sys.argv[1:]
    folder = Path(index)
    changes: dict[str, Callable[[], object]] = {
        "add": lambda: add_runs(folder, [Path(run)]),
        "delete": lambda: delete_rows(folder, Filter(where=where)),
        "compact": lambda: compact(folder),
        "rollback": lambda: rollback(folder),
        "promote": lambda: promote(folder, version),
    }
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while True:
        for name, change in changes.items():
            if over.is_set():
                return
            began = time.monotonic()
            change()
            made = time.monotonic() - began
            status = reload(int(port))
            told = {"change": name, "version": current_version(folder), "seconds": made}
            print(json.dumps(told | {"reload": status}), flush=True)


def reload(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/index/reload")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


if __name__ == "__main__":
    main()
