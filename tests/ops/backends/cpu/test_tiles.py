"""The kernels of Intel AMX, with emulated tiles and compiled for real ones.

On a processor with AMX, the tests of all instruction sets run them too.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cpp.build import CSRC
from tests.emulators.amx import kernels

from .tile_mutants import MUTANTS, Mutant

PROGRAM = Path(__file__).parents[3] / "cpp" / "tile_gemm.cpp"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")

#: Tests of the CPU kernels that have a case of bfloat16.
TESTS = ("tests/ops/backends/test_kernels.py", "tests/layers/test_batch_invariance.py")


@pytest.fixture(scope="module")
def library() -> Path:
    return kernels.build_library()


def passed(library: Path, *arguments: str) -> int:
    """Run tests on the emulated kernels; return how many passed, and fail if one failed."""
    run = kernels.run_tests(library, *arguments)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    found = re.search(r"(\d+) passed", run.stdout)
    assert found is not None
    return int(found[1])


@pytest.mark.slow  # compiling the emulated kernels takes half a minute
def test_nn_rnn_lstm_and_gru(library: Path) -> None:
    """Against the float64 reference, and bits that do not depend on rows, steps or threads."""
    selected = "-k", "amx and bfloat16", "-m", "not (exhaustive or slow or gpu)"
    assert passed(library, *TESTS, *selected) > 40


@pytest.mark.slow
def test_float32_by_products_of_bfloat16(library: Path) -> None:
    assert passed(library, "tests/layers/test_medium_precision.py") > 20


@pytest.mark.exhaustive
def test_cells_with_a_leak(library: Path) -> None:
    """They share all products, loads and stores with the others."""
    selected = "-k", "amx and bfloat16", "-m", "exhaustive"
    assert passed(library, TESTS[0], *selected) >= 4


@pytest.fixture(scope="module")
def program() -> Path:
    return kernels.compile_emulated("tile_gemm", [PROGRAM], "-Wall", "-Werror", *SANITIZERS)


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_products(program: Path) -> None:
    result = run(program)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("unconfigured", "tileloadd: the tiles are not configured"),
        ("released", "tilestored: the tiles are not configured"),
        ("unused tile", "tilezero: the tile is not configured"),
        ("too many rows", "the tile is too large"),
        ("too long rows", "the tile is too large"),
        ("no rows", "rows or their length are 0, not both"),
        ("palette", "the palette is not 1"),
        ("reserved", "a reserved byte is not 0"),
        ("no such tile", "there is no such tile"),
        ("rows differ", "z and a differ in rows"),
        ("columns differ", "z and b differ in columns"),
        ("depths differ", "a has not as many pairs as b has rows"),
    ],
)
def test_the_emulator_reports_faults(program: Path, fault: str, message: str) -> None:
    result = run(program, fault)
    assert result.returncode != 0
    assert message in result.stderr
    assert run(program, "none").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [pytest.param(m, marks=[] if m.quick else pytest.mark.exhaustive, id=m.name) for m in MUTANTS],
)
def test_mutants_are_detected(mutant: Mutant) -> None:
    flags = () if mutant.quick else SANITIZERS
    changed = {"tile_gemm.h": mutant.replacements}
    result = run(kernels.compile_emulated("tile_gemm", [PROGRAM], *flags, changed=changed))
    assert result.returncode != 0
    assert re.search(mutant.detected, result.stdout + result.stderr), result


@pytest.mark.exhaustive  # the build of the extension compiles them too
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only")
def test_the_kernels_compile_for_amx(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no c++")
    target = tmp_path / "isa_amx.s"
    source = CSRC / "cpu" / "isa_amx.cpp"
    flags = "-std=c++20", "-ffp-contract=off", "-Wno-psabi"
    subprocess.run([compiler, *flags, "-S", str(source), "-o", str(target)], check=True)
    found = set(re.findall(r"\b(?:ldtilecfg|tile\w+|tdpbf16ps)\b", target.read_text()))
    if not found:
        pytest.skip("the compiler does not know AMX")
    expected = {"ldtilecfg", "tilezero", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"}
    assert expected <= found
    assembled = tmp_path / "isa_amx.o"
    subprocess.run([compiler, "-c", str(target), "-o", str(assembled)], check=True)
