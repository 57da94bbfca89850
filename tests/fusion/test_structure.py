"""Test the structure of fastrnn.fusion: what imports what, and how long files and functions are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastrnn.fusion

ROOT = Path(fastrnn.fusion.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in FILES}

# A file imports only from groups before its own, and from its own folder.
ORDER = [
    ("errors", "strings", "recipe"),
    ("files", "batch", "run_lock"),
    ("config",),
    ("tasks",),
    ("models", "data", "plots"),
    ("deployment",),
    ("export", "checkpoint"),
    ("hub", "inference"),
    ("training", "evaluation"),
    ("explain",),
    ("report",),
    ("api",),
    ("ray",),
    ("__init__",),
    ("cli",),
]
RANK = {name: rank for rank, group in enumerate(ORDER) for name in group}

LONGEST_FILE, LONGEST_FUNCTION, MOST_ARGUMENTS = 350, 50, 8


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the absolute name of every module that a file imports."""
    package = ("fastrnn", "fusion", *path.parent.parts)
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*start, *filter(None, [node.module])))
            # A name may be a module: from .. import files
            yield from ((node.lineno, f"{module}.{each.name}") for each in node.names)


def part(module: str) -> str:
    """Return the folder or file of fastrnn.fusion that a module belongs to, or ""."""
    names = module.split(".")
    return names[2] if names[:2] == ["fastrnn", "fusion"] and len(names) > 2 else ""


def own(path: Path) -> str:
    """Return the folder or file of fastrnn.fusion that a file belongs to."""
    return path.parts[0].removesuffix(".py")


def report(violations: list[str]) -> None:
    """Fail with a line for each violation."""
    assert not violations, "\n".join(["", *violations])


@pytest.mark.slow
def test_the_library_does_not_import_typer():
    code = "import sys, fastrnn.fusion; assert 'typer' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_command_line_imports_typer():
    report(
        [
            f"{path}:{line}"
            for path in TREES
            if own(path) != "cli"
            for line, module in imports(path)
            if module.split(".")[0] == "typer"
        ]
    )


def test_models_and_data_are_independent():
    report(
        [
            f"{path}:{line} imports {module}"
            for path in TREES
            for line, module in imports(path)
            if {own(path), part(module)} == {"models", "data"}
        ]
    )


def test_networks_are_built_without_tables():
    """Neither the models nor what they import from fastrnn.fusion read tables."""
    reached, new = set(), {"models"}
    while new:
        reached |= new
        found = {part(m) for path in TREES if own(path) in new for _, m in imports(path)}
        new = (found & RANK.keys()) - reached
    assert {"batch", "config"} <= reached
    report(
        [
            f"{path}:{line} imports {module}"
            for path in TREES
            if own(path) in reached
            for line, module in imports(path)
            if module.split(".")[0] in ("pandas", "pyarrow")
        ]
    )


def test_imports_go_down():
    unplaced = [f"{path} has no place in ORDER" for path in TREES if own(path) not in RANK]
    upward = [
        f"{path}:{line} imports {module}"
        for path in TREES
        if own(path) in RANK
        for line, module in imports(path)
        if part(module) in RANK.keys() - {own(path)} and RANK[part(module)] >= RANK[own(path)]
    ]
    report(unplaced + upward)


def test_files_are_short():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in TREES}
    report([f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST_FILE])


def test_functions_are_short():
    """The parameters of a command are its flags, so they do not count."""
    violations = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            where = f"{path}:{node.lineno} {node.name}"
            if (length := lines(node, path)) > LONGEST_FUNCTION:
                violations.append(f"{where}: {length} lines")
            given = node.args
            count = len(given.posonlyargs + given.args + given.kwonlyargs)
            if count > MOST_ARGUMENTS and own(path) != "cli":
                violations.append(f"{where}: {count} arguments")
    report(violations)


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef, path: Path) -> int:
    """Count the lines of a function, without its docstring; in the command line only its body."""
    body = function.body
    first, last = body[0], function.end_lineno or function.lineno
    documented = ast.get_docstring(function) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    start = first.lineno if own(path) == "cli" else function.lineno
    return last - start + 1 - docstring
