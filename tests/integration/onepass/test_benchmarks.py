"""Benchmarks start and explain themselves, the runner counts right, and the weight of a made tree."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import code_size, runner
from tests.helpers.commands import ROOT

SUPPORT = {"__init__", "runner", "jobs", "made", "recall", "damaged_files", "soak_world"}
SCRIPTS = sorted({file.stem for file in (ROOT / "benchmarks").glob("*.py")} - SUPPORT)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_imports_and_helps(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What only a benchmark needs (Daft, hnswlib) is imported when it is measured."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    assert exited.value.code == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert f"benchmarks.{name}" in shown or f"benchmarks/{name}.py" in shown


def test_rounds_take_turns_and_ratios_are_of_one_round(tmp_path: Path) -> None:
    order: list[str] = []

    def contender(name: str, *values: float) -> runner.Contender:
        numbers = iter(values)

        def measure() -> runner.Measures:
            order.append(name)
            return {"rate": next(numbers)}

        return measure

    report = runner.Report("made")
    report.run({"a": contender("a", 2, 9, 8), "b": contender("b", 1, 3, 2)}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    report.ratio("a", "b", "rate")
    assert report.ratios == {"rate: a / b": [2, 3, 4]}
    assert report.median("a", "rate") == 8
    report.write(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["rounds"]["b"][1] == {"rate": 3}


def take(mib: int) -> dict[str, int]:
    """In a child: take so much memory, long enough to be seen."""
    import time

    held = np.ones(mib * runner.MIB, np.uint8)
    time.sleep(0.5)
    return {"taken": int(held[::4096].sum())}


def test_a_child_is_timed_and_its_memory_seen() -> None:
    ran = runner.call(take, memory=True, mib=200)
    assert ran.answer() == {"taken": 200 * runner.MIB // 4096}
    assert ran.seconds > 0.5
    assert 200 <= ran.own_mib() < 400
    with pytest.raises(RuntimeError, match="unexpected keyword"):
        runner.call(take, other=1)


RUN = "\n".join(f"    line{number} = {number}" for number in range(7))
TREE = {
    "pyproject.toml": '[[tool.mypy.overrides]]\nmodule = ["a.*", "b.*"]\nfollow_imports = "skip"\n'
    '[[tool.mypy.overrides]]\nmodule = "c.*"\nfollow_imports = "silent"\n',
    "onepass.py": "from one import x\nfrom one.a import f as g\n_own = value = 1\ndef main(): ...\n",
    "one/__init__.py": "x = 1\n",
    # The import of two.b is a cycle of modules and of packages; the one in TYPE_CHECKING is none.
    "one/a.py": f'''from typing import TYPE_CHECKING
from two import b
if TYPE_CHECKING:
    import onepass
def f(a: "NDArray", b: int, c: int) -> None:
    """Text.

    Args:
        a: rows [N, 4].
    """
    import one
{RUN}
def g(a, b: "Tensor", c): "No shape in [this]."
def small(a, b): "Too few."
def _h(a, b, c): ...
''',
    "two/b.py": f"""from one.a import f  # type: ignore
class K:
    def method(self, a, b, c): ...
    def loop(self):
        try: ...
        except (ValueError, Exception): ...
        except ValueError: ...
        except: ...
{RUN}
""",
    "tests/test_a.py": "assert 1\n\n",
    "benchmarks/speed.py": "assert 1\n",
}


def test_the_weight_of_a_made_tree(tmp_path: Path) -> None:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = code_size.figures(tmp_path)
    lines = {name: len(text.splitlines()) for name, text in TREE.items()}
    source = [lines[name] for name in TREE if name[:3] in ("one", "two")]
    assert found["source files"] == 4
    assert found["source lines"] == sum(source)
    assert found["lines by package"]["one"] == lines["one/__init__.py"] + lines["one/a.py"]
    assert (found["test files"], found["test lines"]) == (1, 2)
    assert found["longest file"] == ("one/a.py", lines["one/a.py"])
    assert found["longest function"] == ("one/a.py:f", 14)
    assert found["public names of onepass"] == 4  # x, g, value, main
    assert found["public functions of 3+ parameters"] == 3
    assert found["of these with Args, %"] == 33.3
    assert (found["of these taking arrays"], found["of those with a shape, %"]) == (2, 50.0)
    assert found["broad excepts"] == 2
    assert found["type: ignore"] == 1
    assert found["skipped by mypy"] == ["a.*", "b.*"]
    assert found["duplicate runs of 6+ lines"] == 1
    assert found["first-party imports in functions"] == 1
    assert found["import cycles of modules"] == 1
    assert found["import cycles of packages"] == 1
    (tmp_path / "onepass.py").write_text('__all__ = ["a", "b"]\n')
    assert code_size.figures(tmp_path)["public names of onepass"] == 2


def test_the_weight_is_printed_for_any_path(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("x = 1\n")
    script = [sys.executable, str(ROOT / "benchmarks" / "code_size.py"), str(tmp_path), "--json"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["source lines"] == 1
