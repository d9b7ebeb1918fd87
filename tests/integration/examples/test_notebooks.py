"""The notebooks run in an empty folder, say what their text says, and are stored as they ran."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from nbformat import NotebookNode
from PIL import Image

from tests.helpers.notebooks import execute

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.ipynb"))


class Executed(NamedTuple):
    """A notebook after the last cell: values of expressions, pictures, and updates of displays."""

    values: dict[str, Any]
    pictures: list[Image.Image]
    updates: Counter[int]


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **expressions: str) -> Executed:
    """Execute a notebook in ``folder``, and evaluate expressions after its last cell."""
    root = str(EXAMPLES.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    shutil.copy(EXAMPLES / "pictures.py", folder)
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    asked = ", ".join(f"{key!r}: {expression}" for key, expression in expressions.items())
    notebook.cells.append(
        nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{asked}}}, default=int))")
    )
    updates = execute(notebook, folder)
    answer = notebook.cells.pop().outputs[-1].text
    return Executed(json.loads(answer), pictures_in(notebook), updates)


def outputs_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures_in(notebook: NotebookNode) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for output in outputs_of(notebook)
        for kind, data in output.get("data", {}).items()
        if kind in ("image/png", "image/jpeg")
    ]


def test_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(
        "01_first_run",
        tmp_path,
        monkeypatch,
        rows="len(run)",
        failed="failed['image'].to_list()",
        cats="(good['label'] == 'Egyptian cat').sum()",
        shape="list(plane.shape)",
    )
    assert done.values == {
        "rows": 21,
        "failed": ["rocket/broken.jpg"],
        "cats": 4,
        "shape": [20, 2],
    }
    assert len(done.pictures) == 2
    assert max(done.updates.values()) >= 2  # the bar moved while ``extract`` ran


def test_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(
        "02_search",
        tmp_path,
        monkeypatch,
        by_picture="kind_of[hits.ids].to_list()",
        by_row="kind_of[neighbors.ids].to_list()",
        later="sorted(later.to_pandas()['sequence'].unique())",
        beetle="kind_of[nearest_beetle.ids].to_list()",
        by_vector="[kind_of[ids].unique().tolist() for ids in typical.ids]",
        same="same_kind",
    )
    values = done.values
    assert values["by_picture"] == ["hawk moth"] * 8
    assert values["by_row"] == ["lacewing"] * 8
    assert values["later"] == ["night2", "night3"]
    assert values["beetle"] == ["beetle"]
    assert values["by_vector"] == [["beetle"], ["hawk moth"], ["lacewing"], ["tiger moth"]]
    assert values["same"] > 0.95
    assert len(done.pictures) == 5


def test_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(
        "03_tracks",
        tmp_path,
        monkeypatch,
        tracks="len(tracks)",
        short="len(short)",
        individuals="per_track['individuals'].to_list()",
        names="per_track['individual'].nunique()",
        boxes="per_track['boxes'].sum() - len(run)",
    )
    assert done.values["short"] > done.values["tracks"] == done.values["names"] == 6
    assert done.values["individuals"] == [1] * 6
    assert done.values["boxes"] == 0
    assert len(done.pictures) == 3


def test_new_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(
        "04_new_head",
        tmp_path,
        monkeypatch,
        classes="sorted(set(answers['label']))",
        right="(answers['kind'] == answers['label']).sum()",
        rows="len(answers)",
    )
    assert done.values["classes"] == ["beetle", "hawk moth", "lacewing", "tiger moth"]
    assert done.values["rows"] == 20
    assert done.values["right"] >= 18
    assert len(done.pictures) == 3


def test_migrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(
        "05_migrate",
        tmp_path,
        monkeypatch,
        missed="first_verdict.loc[first_verdict['outcome'] == 'missed', 'name'].to_list()",
        passed="migration.passed",
        models="[i.manifest.model.request.spec for i in (index, served, back)]",
        versions="len(back.versions)",
    )
    assert done.values == {
        "missed": ["min_label_agreement"],
        "passed": True,
        "models": ["lite0", "lite1", "lite0"],
        "versions": 2,
    }
    assert len(done.pictures) == 2


@pytest.mark.parametrize("name", NAMES)
def test_stored_as_it_ran(name: str) -> None:
    file = EXAMPLES / f"{name}.ipynb"
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for output in outputs_of(notebook))
    assert pictures_in(notebook)
    assert file.stat().st_size < 400_000
    # Folders of the machine on which it ran say nothing to others.
    texts = [str(output.get("text", output.get("data"))) for output in outputs_of(notebook)]
    assert not any(
        str(folder) in text
        for text in texts
        for folder in (str(EXAMPLES.parent), str(Path.home()), "ipykernel_")
    )
