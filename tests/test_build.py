"""Build the extensions, and check the error messages and files of failed builds."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

from .utils.marks import requires_extension

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = "_C" + sysconfig.get_config_var("EXT_SUFFIX")
ERROR = "kernel.cpp:7:1: error: unknown type name"
IN_PLACE = ("setup.py", "build_ext", "--inplace")

# Disable editable installations, which would provide the extension of another checkout.
DOCTOR = """
import runpy, sys
sys.meta_path[:] = [
    finder for finder in sys.meta_path
    if not getattr(finder, "__module__", "").startswith("__editable__")
]
runpy.run_module("fastrnn", run_name="__main__")
"""

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="needs a checkout of the source"
)


@pytest.fixture
def tree(tmp_path):
    """Return a copy of the source without build results."""
    copy = tmp_path / "tree"
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*_build_error.txt")
    for folder in ("csrc", "fastrnn"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=unwanted)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    return copy


@pytest.fixture
def failing_compiler(tmp_path):
    """Return a compiler that only prints an error."""
    return script(tmp_path / "failing-g++", f"echo '{ERROR}' >&2; exit 1")


@pytest.fixture
def fake_compiler(tmp_path):
    """Return a compiler that creates empty output files."""
    make = 'while [ $# -gt 0 ]; do if [ "$1" = -o ]; then : > "$2"; fi; shift; done'
    return script(tmp_path / "fake-g++", make)


def script(path, body):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def run(tree, *arguments, **environment):
    inherited = {k: v for k, v in os.environ.items() if k not in ("CXX", "FASTRNN_BUILD")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def reason(folder, extension=""):
    return (folder / f"{extension}_build_error.txt").read_text().splitlines()[0]


@pytest.mark.slow
def test_a_failed_build_installs_without_kernels_and_keeps_the_error(tree, failing_compiler):
    stale = tree / "fastrnn" / EXTENSION
    stale.write_text("from an earlier build")

    build = run(tree, *IN_PLACE, CXX=failing_compiler)

    assert build.returncode == 0, build.stderr
    assert "nn.RNN's own implementation" in build.stderr
    assert ERROR in build.stderr
    assert not stale.exists()
    assert reason(tree / "fastrnn") == ERROR

    doctor = run(tree, "-c", DOCTOR)
    assert doctor.returncode == 0, doctor.stderr
    assert f"unavailable: not built: {ERROR}" in doctor.stdout
    assert "FASTRNN_BUILD=cpp python setup.py build_ext --inplace" in doctor.stdout


@pytest.mark.exhaustive
def test_failed_build_without_ninja_keeps_the_error_too(tree, failing_compiler, tmp_path):
    script(tmp_path / "bin" / "ninja", "exit 1")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    build = run(tree, *IN_PLACE, CXX=failing_compiler, PATH=path)
    assert build.returncode == 0, build.stderr
    assert reason(tree / "fastrnn") == ERROR


@pytest.mark.slow
def test_no_compiler(tree):
    build = run(tree, *IN_PLACE, CXX="/nowhere/g++")
    assert build.returncode == 0, build.stderr
    assert "nn.RNN's own implementation" in build.stderr
    assert "/nowhere/g++" in reason(tree / "fastrnn")
    assert "not found" in reason(tree / "fastrnn")
    # Missing CUDA kernels are not reported unless requested. The reason is still recorded.
    assert "CUDA kernels" not in build.stderr
    if torch.version.cuda is None:
        assert reason(tree / "fastrnn", "_cuda") == "this torch was built without CUDA"


@pytest.mark.slow
def test_forced_build_fails_with_the_error(tree, failing_compiler):
    build = run(tree, *IN_PLACE, CXX=failing_compiler, FASTRNN_BUILD="cpp")
    assert build.returncode != 0
    assert f"FASTRNN_BUILD=cpp, but fastrnn._C could not be built: {ERROR}" in build.stderr
    assert "CUDA kernels" not in build.stderr


@pytest.mark.slow
def test_forced_cuda_build_fails_without_nvcc(tree, tmp_path, fake_compiler):
    build = run(tree, *IN_PLACE, FASTRNN_BUILD="cuda", CUDA_HOME=str(tmp_path), CXX=fake_compiler)
    assert build.returncode != 0
    assert "fastrnn._cuda could not be built: nvcc was not found" in build.stderr


@pytest.mark.slow
def test_forced_cuda_build_fails_with_nvccs_error(tree, tmp_path, fake_compiler):
    script(tmp_path / "bin" / "nvcc", f"echo '{ERROR}' >&2; exit 1")
    build = run(tree, *IN_PLACE, FASTRNN_BUILD="cuda", CUDA_HOME=str(tmp_path), CXX=fake_compiler)
    assert build.returncode != 0
    assert ERROR in build.stderr
    assert not list((tree / "fastrnn").glob("_cuda*.so"))


def test_no_build(tree):
    build = run(tree, *IN_PLACE, FASTRNN_BUILD="none", CXX="/nowhere/g++")
    assert build.returncode == 0, build.stderr
    assert not (tree / "fastrnn" / EXTENSION).exists()
    assert "FASTRNN_BUILD=none" in reason(tree / "fastrnn")


def test_unknown_build(tree):
    build = run(tree, *IN_PLACE, FASTRNN_BUILD="fast")
    assert build.returncode != 0
    assert "FASTRNN_BUILD='fast' is unknown: choose one of auto, cpp, cuda, none" in build.stderr


def test_no_torch(tree, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    build = run(tree, *IN_PLACE, PYTHONPATH=str(tmp_path))
    assert build.returncode == 0, build.stderr
    assert "no torch here" in reason(tree / "fastrnn")
    assert "--no-build-isolation" in reason(tree / "fastrnn")


@pytest.mark.exhaustive
def test_wheel_of_a_failed_build_carries_the_reason_and_nothing_stale(tree, failing_compiler):
    tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    stale = tree / "build" / f"lib.{tag}" / "fastrnn" / EXTENSION
    stale.parent.mkdir(parents=True)
    stale.write_text("from an earlier build")

    build = run(tree, "setup.py", "bdist_wheel", CXX=failing_compiler)

    assert build.returncode == 0, build.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "fastrnn/_build_error.txt" in names
    assert "fastrnn/py.typed" in names
    assert f"fastrnn/{EXTENSION}" not in names


# `.ci/run` builds the extension, and test_import.py loads it. This adds a stale report.
@pytest.mark.exhaustive
def test_build(tree):
    (tree / "fastrnn" / "_build_error.txt").write_text("from an earlier build")

    build = run(tree, *IN_PLACE, FASTRNN_BUILD="cpp")

    assert build.returncode == 0, build.stderr
    assert not (tree / "fastrnn" / "_build_error.txt").exists()
    code = (
        "from fastrnn.ops.backends.cpu import EXTENSION; "
        "print(EXTENSION.unavailable_reason, EXTENSION.info['torch_target'])"
    )
    assert run(tree, "-c", code).stdout == "None 2.10\n"


@requires_extension
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_the_extension_uses_the_stable_abi_only():
    """torch's next release may lack its other symbols."""
    from fastrnn import _C

    assert unstable_symbols(_C.__file__) == []


def unstable_symbols(library):
    """Return the symbols of torch outside its stable ABI, which its next release may lack."""
    command = ["nm", "--dynamic", "--undefined-only", "--demangle", library]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "aoti_torch" in symbols
    return [line for line in symbols.splitlines() if re.search(r" (c10|at)::", line)]
