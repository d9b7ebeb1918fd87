"""Notebooks, executed from the first cell to the last.

``python -m tests.helpers.notebooks examples/*.ipynb`` executes them and stores their outputs.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode


class _Client(NotebookClient):
    """Counts the updates of what cells display; a notebook keeps the last one only."""

    updates: Counter[int]

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data":
            self.updates[cell_index] += 1
        return super().process_message(msg, cell, cell_index)


def execute(notebook: NotebookNode, folder: Path) -> Counter[int]:
    """Execute every cell with this interpreter, and keep the outputs in the notebook.

    Args:
        notebook: its outputs are replaced.
        folder: where it runs.

    Returns:
        How often each cell's displays were updated while it ran.

    Raises:
        CellExecutionError: a cell raised an error, which the message shows.
    """
    client = _Client(notebook, timeout=120, record_timing=False, coalesce_streams=True)
    client.updates = Counter()
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable
    client.execute(cwd=str(folder))
    return client.updates


def store(file: Path) -> None:
    """Execute a notebook where it is, and store it with its outputs."""
    notebook = nbformat.read(file, as_version=4)
    execute(notebook, file.parent)
    notebook.metadata.language_info = {"name": "python"}  # without the version of this interpreter
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "text" in output:  # the line of a warning is in a file that has another name each time
            output.text = re.sub(r"\S*/ipykernel_\d+/\d+\.py:\d+: ", "", output.text)
    nbformat.write(notebook, file)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store(Path(name))
