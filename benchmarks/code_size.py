"""The figures by which the weight of the code is judged, of this source tree or of any other.

    python benchmarks/code_size.py [PATH] [--json]

Source is every top-level package and module but tests, benchmarks, docs and examples. Files are
parsed, never imported, so that any earlier version can be given; it needs nothing but Python.

* **public names** of ``onepass``: its ``__all__``, or names without an underscore but modules.
* **Args**, **shape**: public functions, and methods of public classes, of three parameters or more;
  a shape is brackets with an upper-case letter or a digit, as in ``[N, 4]``.
* **duplicate runs**: where six or more lines in a row (blank lines and comments left out, spaces
  normalised) stand a second time in the source, each run as long as it goes.
* **cycles**: groups of modules, or of top-level packages, that import each other at module level.

Printed last on 2026-11-30: 236 files, 35,268 lines of source, 174 files, 25,852 lines of tests.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import tomllib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

NOT_SOURCE = ["tests", "benchmarks", "docs", "examples", "build", "dist", "setup", "conftest"]
ANNOTATED = re.compile(r"\.(command|callback|get|post|put|delete)\(")
ARRAY = re.compile(r"ndarray|NDArray|Tensor|Floats|Ints")
SHAPE = re.compile(r"\[[^\]\n]*[A-Z0-9][^\]\n]*\]")
RUN_LINES = 6
LONG_FILE = 400
IGNORE = re.compile(r"#\s*type:\s*ignore")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = ast.Import | ast.ImportFrom
Trees = Mapping[Path, ast.Module]


def python_files(folder: Path) -> list[Path]:
    """Python files below ``folder``, a hidden folder left out."""
    found = (file.relative_to(folder) for file in folder.rglob("*.py"))
    return sorted(folder / file for file in found if not str(file).startswith("."))


def source_files(root: Path) -> list[Path]:
    """Files of every top-level package and module that is source."""
    tops = {f.relative_to(root).parts[0] for f in [*root.glob("*.py"), *root.glob("*/*.py")]}
    names = sorted(n for n in tops if n.removesuffix(".py") not in NOT_SOURCE and n[0] != ".")
    parts = ([root / n] if n.endswith(".py") else python_files(root / n) for n in names)
    return [file for part in parts for file in part]


def public_functions(body: Iterable[ast.stmt]) -> Iterator[Function]:
    """Functions of a module and methods of its public classes whose names have no underscore."""
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)


def docstrings(trees: Trees) -> dict[str, Any]:
    """How many of the public functions with three parameters or more say what these are.

    Commands and routes say it in the annotations, which are their help.
    """
    args, shapes = Counter[bool](), Counter[bool]()
    for function in (node for tree in trees.values() for node in public_functions(tree.body)):
        signature, text = function.args, ast.get_docstring(function) or ""
        parameters = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
        own = [node for node in parameters if node.arg not in ("self", "cls")]
        if len(own) >= 3:
            annotated = any(ANNOTATED.search(ast.unparse(d)) for d in function.decorator_list)
            args["Args:" in text or annotated] += 1
            if any(node.annotation and ARRAY.search(ast.unparse(node.annotation)) for node in own):
                shapes[bool(SHAPE.search(text))] += 1
    return {
        "public functions of 3+ parameters": args.total(),
        "of these with Args, %": round(100 * args[True] / max(1, args.total()), 1),
        "of these taking arrays": shapes.total(),
        "of those with a shape, %": round(100 * shapes[True] / max(1, shapes.total()), 1),
    }


def public_names(root: Path, modules: Container[str]) -> int | None:
    """Names that ``onepass`` offers; None where there is no such module."""
    files = [f for f in (root / "onepass" / "__init__.py", root / "onepass.py") if f.is_file()]
    names: set[str] = set()
    for node in ast.parse(files[0].read_text()).body if files else ():
        if isinstance(node, ast.Assign | ast.AnnAssign):
            inside = [one for one in ast.walk(node) if isinstance(one, ast.Name)]
            bound = {one.id for one in inside if isinstance(one.ctx, ast.Store)}
            if "__all__" in bound:
                known = (getattr(one, "value", None) for one in ast.walk(node))
                return len({one for one in known if isinstance(one, str)})
            names |= bound
        elif isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            known_names = (one for one in node.names if f"{node.module}.{one.name}" not in modules)
            names |= {one.asname or one.name for one in known_names}
    return len([name for name in names if not name.startswith("_")]) if files else None


def broad_excepts(trees: Trees) -> int:
    """``except Exception``, ``except BaseException``, bare, also within a tuple."""
    nodes = (node for tree in trees.values() for node in ast.walk(tree))
    handlers = [node for node in nodes if isinstance(node, ast.ExceptHandler)]
    kinds = (ast.unparse(node.type) if node.type else "Exception" for node in handlers)
    return sum(bool(re.search(r"\b(Base)?Exception\b", kind)) for kind in kinds)


def duplicate_runs(texts: Iterable[str]) -> int:
    """Maximal runs of RUN_LINES or more lines that stand a second time."""
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, text in enumerate(texts):
        lines = (" ".join(line.split()) for line in text.splitlines())
        code = [line for line in lines if line and not line.startswith("#")]
        for at in range(len(code) - RUN_LINES + 1):
            places[tuple(code[at : at + RUN_LINES])].append((number, at))
    pairs = {
        (one, two)
        for found in places.values()
        for one, two in combinations(found, 2)
        if one[0] != two[0] or two[1] - one[1] >= RUN_LINES  # not over itself
    }
    # A pair of windows that follows another pair, one line on, belongs to the same run.
    return sum(((a, x - 1), (b, y - 1)) not in pairs for (a, x), (b, y) in pairs)


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def at_import(body: Iterable[ast.AST]) -> Iterator[Import]:
    """Imports that run when a module is imported; those for TYPE_CHECKING left out."""
    for node in body:
        if isinstance(node, Import):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
        elif not isinstance(node, Function | ast.Lambda):
            yield from at_import(ast.iter_child_nodes(node))


def targets(node: Import, file: Path, module: str, known: Mapping[str, Path]) -> set[str]:
    """The source modules that an import names."""
    if isinstance(node, ast.Import):
        return {one.name for one in node.names if one.name in known}
    base = module.split(".")
    base = base[: len(base) - node.level + (file.name == "__init__.py")] if node.level else []
    start = ".".join([*base, *([node.module] if node.module else [])])
    # A name of a package is a module of it, or something that the package itself defines.
    names = (f"{start}.{one.name}" for one in node.names)
    return {name if name in known else start for name in names} & known.keys()


def cycles(graph: Mapping[str, set[str]]) -> int:
    """Groups of two or more that reach each other (strongly connected components)."""
    reached = {name: {*others} for name, others in graph.items()}
    for middle in graph:  # Warshall's transitive closure
        for others in reached.values():
            if middle in others:
                others |= reached[middle]
    both = {name: {one for one in reached[name] if name in reached[one]} for name in graph}
    return len({frozenset(group) for group in both.values() if len(group) > 1})


def imports(trees: Trees, modules: Mapping[str, Path]) -> dict[str, int]:
    """Imports of the tree's own modules inside functions, and cycles of those outside."""
    by_module: dict[str, set[str]] = {}
    packages: dict[str, set[str]] = defaultdict(set)
    inner = 0
    for name, file in modules.items():
        bodies = (ast.walk(one) for one in ast.walk(trees[file]) if isinstance(one, Function))
        in_functions = {node for body in bodies for node in body if isinstance(node, Import)}
        inner += sum(bool(targets(node, file, name, modules)) for node in in_functions)
        found = (targets(node, file, name, modules) for node in at_import(trees[file].body))
        by_module[name] = set().union(*found) - {name}
        top = name.partition(".")[0]
        packages[top] |= {other.partition(".")[0] for other in by_module[name]} - {top}
    return {
        "first-party imports in functions": inner,
        "import cycles of modules": cycles(by_module),
        "import cycles of packages": cycles(packages),
    }


def skipped_by_mypy(root: Path) -> list[str]:
    """Modules that mypy is told to skip or whose missing types it is told to ignore."""
    file, found = root / "pyproject.toml", set[str]()
    project = tomllib.loads(file.read_text()) if file.is_file() else {}
    for one in project.get("tool", {}).get("mypy", {}).get("overrides", []):
        if one.get("follow_imports") == "skip" or one.get("ignore_missing_imports"):
            found.update([one["module"]] if isinstance(one["module"], str) else one["module"])
    return sorted(found)


def figures(root: Path) -> dict[str, Any]:
    """Every figure of the tree at ``root``, by its name."""
    texts = {file: file.read_text(encoding="utf-8") for file in source_files(root)}
    tests = [file.read_text(encoding="utf-8") for file in python_files(root / "tests")]
    trees = {file: ast.parse(text) for file, text in texts.items()}
    modules = {module_name(file, root): file for file in trees}
    sizes = {file.relative_to(root).as_posix(): len(t.splitlines()) for file, t in texts.items()}
    spans = {
        f"{name}:{one.name}": (one.end_lineno or 0) - one.lineno + 1
        for name, file in zip(sizes, trees, strict=True)
        for one in ast.walk(trees[file])
        if isinstance(one, Function)
    }
    packages = Counter[str]()
    for name, size in sizes.items():
        packages[name.partition("/")[0].removesuffix(".py")] += size
    return {
        "source files": len(sizes),
        "source lines": sum(sizes.values()),
        "lines by package": dict(packages),
        "test files": len(tests),
        "test lines": sum(len(text.splitlines()) for text in tests),
        "median file": statistics.median(sizes.values()) if sizes else None,
        "longest file": max(sizes.items(), key=lambda one: one[1], default=None),
        "longest function": max(spans.items(), key=lambda one: one[1], default=None),
        f"files over {LONG_FILE} lines": sum(size > LONG_FILE for size in sizes.values()),
        "public names of onepass": public_names(root, modules),
        **docstrings(trees),
        "broad excepts": broad_excepts(trees),
        "type: ignore": sum(len(IGNORE.findall(text)) for text in texts.values()),
        "skipped by mypy": skipped_by_mypy(root),
        "duplicate runs of 6+ lines": duplicate_runs(texts.values()),
        **imports(trees, modules),
    }


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("path", type=Path, nargs="?", default=here, help="default: this tree")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    given = parser.parse_args()
    found = figures(given.path.resolve())
    table = (f"{n:<36} {len(v) if isinstance(v, list) else v}" for n, v in found.items())
    print(json.dumps(found, indent=2) if given.json else "\n".join(table))


if __name__ == "__main__":
    main()
