"""Links a run as a process of its own and prints how many rows a second: here, or on Ray."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    from index.tracks import link

    if sys.argv[2] == "ray":
        link.RAY_FROM_BYTES = 0
    else:
        link.RAY_FROM_BYTES = 1 << 62
    began = time.monotonic()
    summary = link.link_run(Path(sys.argv[1]))
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "tracks": summary.tracks, "linked": summary.linked}))
