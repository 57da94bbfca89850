"""Check the documentation: its code runs, its links and files exist, its claims name tests."""

import ast
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
#: Pages whose code is complete; that of others needs the reader's files.
RUNNABLE = [
    "docs/custom-cells.md",
    "docs/index.md",
    "docs/migration.md",
    "docs/quickstart.md",
    "docs/troubleshooting.md",
]


def code(page: str) -> str:
    """The page's Python, with each block at its own line numbers."""
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
    exec(compile(source, str(ROOT / page), "exec"), {"__name__": page})


def test_the_first_block_of_the_readme_runs() -> None:
    block = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert "FusedRNN" in block
    exec(compile(block, "README.md", "exec"), {})


def recipes() -> dict[str, str]:
    """The code of each section of docs/neighbours.md that has some: each is complete."""
    sections = (ROOT / "docs/neighbours.md").read_text().split("\n## ")[1:]
    return {
        section.partition("\n")[0]: section.partition("```python\n")[2].partition("```")[0]
        for section in sections
    }


@pytest.mark.parametrize(
    "section",
    # OpenVINO takes long to start.
    [pytest.param(s, marks=pytest.mark.slow if s == "OpenVINO" else ()) for s in recipes()],
)
@pytest.mark.filterwarnings("ignore")
def test_recipes_run_where_their_package_is_installed(section: str) -> None:
    """Other packages in a process of its own: they start threads, and some report their use."""
    source = recipes()[section]
    assert source
    others = False
    for node in ast.walk(ast.parse(source)):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        for package in (name.partition(".")[0] for name in names):
            if find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
            others |= package not in {"fastrnn", "torch", *sys.stdlib_module_names}
    if not others:
        exec(compile(source, section, "exec"), {"__name__": section})
        return
    quiet = "import sys; sys.modules['openvino_telemetry'] = None\n"
    command = [sys.executable, "-W", "ignore", "-c", quiet + source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and MyST give the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text):
        if link.startswith("http"):
            continue
        target, _, anchor = link.partition("#")
        path = ROOT / page.parent / target if target else ROOT / page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path), link


#: Folders that hold source; files that a program makes are not there.
NAMED = re.compile(r"(?<![\w/.])((?:csrc|fastrnn|tests|benchmarks|examples|tools)/[\w./-]*\w)")
MADE = {"benchmarks/results/MACHINE", "fastrnn/_build_error.txt", "fastrnn/_cuda_build_error.txt"}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_named_files_and_modules_exist(page: Path) -> None:
    text = (ROOT / page).read_text()
    names = set(NAMED.findall(text)) - MADE
    modules = re.findall(r"python -m ((?:benchmarks|examples|tools)\.\w+)", text)
    names |= {name.replace(".", "/") for name in modules}
    missing = [name for name in sorted(names) if not list(ROOT.glob(f"{name}*"))]
    assert not missing


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


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


@pytest.fixture(scope="module")
def conf() -> SimpleNamespace:
    """The configuration of Sphinx."""
    pytest.importorskip("sphinx")
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs/conf.py")))


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("../fastrnn/ops/reference.py", "/blob/main/fastrnn/ops/reference.py"),
        ("../benchmarks/results", "/tree/main/benchmarks/results"),
        ("kernels.md", None),
        ("https://pytorch.org", None),
    ],
)
def test_sphinx_links_to_the_repository(
    conf: SimpleNamespace, target: str, url: str | None
) -> None:
    expected = target if url is None else conf.REPOSITORY + url
    assert conf.repository_url(target, ROOT / "docs/design.md") == expected


def test_sphinx_shows_the_picture_of_the_readers_theme(conf: SimpleNamespace) -> None:
    picture = '<picture><source media="x" srcset="a-dark.png"><img src="a.png" alt="A"></picture>'
    shown = conf._PICTURE.sub(conf.themed_images, picture)
    assert "```{image} a.png\n:alt: A\n:class: only-light" in shown
    assert "```{image} a-dark.png\n:alt: A\n:class: only-dark" in shown


def test_sphinx_lists_several_results(conf: SimpleNamespace) -> None:
    lines = ["Run.", "", "Returns:", "    y: [T, B],", "        padded.", "    h: [B].", ""]
    conf.prepare_docstring(None, "function", "f", None, None, lines)
    assert lines[2:] == [
        ":returns:",
        "   * **y** -- [T, B],",
        "     padded.",
        "   * **h** -- [B].",
        "",
    ]


#: Words of translated English, with the usual ones.
AWKWARD = {
    r"anew": "again, new",
    r"whom": "rewrite the sentence",
    r"but for": "except",
    r"besides?": "next to, compared with, in addition to",
    r"to and fro": "in alternating directions",
    r"lies (in|at|on|beyond|within)": "is in",
    r"meets? (at|after|in) ": "synchronise",
}


@pytest.mark.parametrize(
    "folder", ["", "benchmarks", "csrc", "docs", "examples", "fastrnn", "tests", "tools"]
)
def test_words_are_plain(folder: str) -> None:
    files = (ROOT / folder).rglob("*") if folder else ROOT.glob("*")
    kinds = {".md", ".py", ".cpp", ".cu", ".h", ".inc"}
    found = [
        f"{path.relative_to(ROOT)}: {word[0]!r}; write {AWKWARD[pattern]}"
        for path in files
        if path.suffix in kinds and path != Path(__file__)
        for pattern in AWKWARD
        if (word := re.search(rf"\b{pattern}\b", path.read_text(), re.IGNORECASE))
    ]
    assert not found
