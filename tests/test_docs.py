"""What the documentation says: its code runs, its links lead somewhere, its proofs exist."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
#: Pages whose code stands for itself; that of others needs the reader's files.
RUNNABLE = ["docs/custom-cells.md", "docs/migration.md"]


def code(page: str) -> str:
    """The page's Python, each block at the lines where it stands."""
    lines, inside = [], False
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines)


@pytest.mark.parametrize("page", RUNNABLE)
def test_code_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = code(page)
    assert source.strip()
    exec(compile(source, str(ROOT / page), "exec"), {})


def recipes() -> dict[str, str]:
    """The code of each section of docs/neighbours.md that has some: each stands by itself."""
    sections = (ROOT / "docs/neighbours.md").read_text().split("\n## ")[1:]
    return {
        section.partition("\n")[0]: section.partition("```python\n")[2].partition("```")[0]
        for section in sections
    }


@pytest.mark.parametrize("section", recipes())
def test_recipes_run_where_their_package_is_installed(section: str) -> None:
    """In a process of its own: the packages start threads, and some report their use."""
    source = recipes()[section]
    assert source
    for node in ast.walk(ast.parse(source)):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        for name in names:
            if find_spec(name.partition(".")[0]) is None:
                pytest.skip(f"{name} is not installed")
    quiet = "import sys; sys.modules['openvino_telemetry'] = None\n"
    command = [sys.executable, "-W", "ignore", "-c", quiet + source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert (ROOT / page.parent / target).exists(), target


def names_in(path: Path) -> set[str]:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "name")]
    return {node.name for node in functions}


def rows() -> list[list[str]]:
    table = re.findall(r"^\|(.+)\|$", (ROOT / "docs/features.md").read_text(), re.MULTILINE)
    cells = [[cell.strip() for cell in row.split(" | ")] for row in table]
    return [row for row in cells if not set(row[0]) <= {"-", " ", "|"} and row[-1] != "proof"]


def test_every_feature_names_the_tests_that_prove_it() -> None:
    assert len(rows()) > 40
    for feature, *_, proof in rows():
        proofs = re.findall(r"`([\w/]+\.py)::(\w+)`", proof)
        assert proofs, f"{feature}: no proof"
        for file, name in proofs:
            assert name in names_in(ROOT / "tests" / file), f"{feature}: {file} has no {name}"
