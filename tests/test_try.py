"""The copy of the tree that `make try` creates, with a fake make that installs nothing."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = "fastrnn/_C" + sysconfig.get_config_var("EXT_SUFFIX")
CONSTRAINTS = 'numpy==2.4.6 ; python_version >= "3.11"\npytest-xdist==3.8.0\ntorch==2.13.0\n'
MAKE = f"""#!/bin/sh
echo "$PWD: $*" >> "$LOG"
mkdir -p "$2/.venv/bin"
ln -sf {sys.executable} "$2/.venv/bin/python"
"""

pytestmark = pytest.mark.skipif(
    not (ROOT / ".ci").exists() or shutil.which("git") is None, reason="needs a checkout and git"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Create a small project with an extension that is newer than its source."""
    tree = tmp_path / "tree"
    (tree / "csrc").mkdir(parents=True)
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/try", tree / ".ci")
    (tree / "fastrnn").mkdir()
    (tree / "constraints.txt").write_text(CONSTRAINTS)
    for name in (".gitignore", "setup.py", "csrc/kernel.cpp", "fastrnn/_version.py", EXTENSION):
        (tree / name).write_text("build/\n*.so\n")
    for path in (tree / "csrc", tree / "csrc/kernel.cpp", tree / "setup.py"):
        os.utime(path, (0, 0))
    os.utime(tree / "fastrnn/_version.py", (0, 0))
    subprocess.run(["git", "init", "--quiet", tree], check=True)
    return tree


def run_try(tree: Path, versions: str) -> subprocess.CompletedProcess:
    make = tree.parent / "bin/make"
    make.parent.mkdir()
    make.write_text(MAKE)
    make.chmod(0o755)
    path = f"{make.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "WITH": versions, "PATH": path, "LOG": str(tree / "build/log")}
    return subprocess.run([tree / ".ci/try"], env=environment, capture_output=True, text=True)


def test_named_versions_replace_their_constraints(tree: Path) -> None:
    done = run_try(tree, "numpy<2.4,>=2 pytest_xdist")
    assert done.returncode == 0, done.stderr
    copy = tree / "build/try/numpy-2.4-2-pytest-xdist"
    assert (copy / "constraints.txt").read_text() == "numpy<2.4,>=2\npytest_xdist\ntorch==2.13.0\n"
    assert (tree / "constraints.txt").read_text() == CONSTRAINTS
    assert (copy / "csrc/kernel.cpp").exists()
    assert "Name: numpy\nVersion: " in done.stdout  # the version in use
    made = [line.split(": ")[1] for line in (tree / "build/log").read_text().splitlines()]
    where = copy.relative_to(tree)
    assert made == [f"-C {where} .venv/installed", f"-C {where} test"]


@pytest.mark.parametrize(
    ("versions", "touched", "copied"),
    [
        ("numpy==2.3.5", None, True),
        ("numpy==2.3.5", "csrc/kernel.cpp", False),
        ("numpy==2.3.5 torch==2.10.0", None, False),
    ],
)
def test_an_up_to_date_extension_is_copied(
    tree: Path, versions: str, touched: str | None, copied: bool
) -> None:
    if touched is not None:
        later = (tree / EXTENSION).stat().st_mtime + 1
        os.utime(tree / touched, (later, later))
    done = run_try(tree, versions)
    assert done.returncode == 0, done.stderr
    (copy,) = (tree / "build/try").iterdir()
    assert (copy / EXTENSION).exists() == copied
    assert (copy / ".venv/built").exists() == copied


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ("", "names the versions to try"),
        ("numpy==2.3.5 tirton==3.9.0", "tirton==3.9.0: constraints.txt has no such package"),
    ],
)
def test_invalid_versions_are_reported(tree: Path, versions: str, message: str) -> None:
    done = run_try(tree, versions)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tree / "build").exists()
