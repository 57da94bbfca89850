"""Count instructions of the CPU kernels with valgrind: `python -m tools.cpu_counts`.

The instructions of a step are the difference between two calls that differ only in T, and those of
a short call of a layer the difference between one call and several. Counts show
what times cannot: whether a slower step executes more instructions, or stalls. The calls use one
thread, float32, tanh and AVX2, the widest instruction set that valgrind supports. The kernels are
compiled with the program: those of the extension may execute a few instructions more or fewer.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.process import run
from benchmarks.report.markdown import aligned

#: The program with the kernels, and what they call.
SOURCES = (
    Path(__file__).parent / "cpu_counts.cpp",
    *(ROOT / "csrc/cpu" / name for name in ("cpu_count.cpp", "plan.cpp")),
)
TARGET = ("-mavx2", "-mfma") if platform.machine() in ("x86_64", "AMD64") else ()
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", *TARGET, f"-I{ROOT / 'csrc'}")

#: (B, H): one row, with W_hh smaller and larger than L1, and a tile of rows.
SIZES = ((1, 16), (1, 64), (1, 128), (8, 64), (32, 128))

#: The number of steps whose instructions are counted, in addition to the first.
STEPS = 100

#: The float32 lanes of an AVX2 vector.
LANES = 8

#: The number of steps of a short call, and of calls that are counted in addition to the first.
SHORT, CALLS = 8, 10

#: Time limits of the compiler, and of a program under valgrind, in seconds.
COMPILE_SECONDS, COUNT_SECONDS = 240, 120

HEADER = ("direction", "(B, H)", "instructions", "multiply-adds", "share")


def _count(program: Path, kind: str, *sizes: int) -> int:
    """Count the instructions of a run of the program."""
    command = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program))
    status, output = run((*command, kind, *map(str, sizes)), COUNT_SECONDS)
    found = re.search(r"Collected : (\d+)", output)
    if status != 0 or found is None:
        raise RuntimeError(f"valgrind failed: {output[-500:]}")
    return int(found[1])


def counts(program: Path, direction: str, batch: int, hidden: int) -> int:
    """Count the instructions of one step."""
    one, more = (_count(program, direction, steps, batch, hidden, 1) for steps in (1, 1 + STEPS))
    return round((more - one) / STEPS)


def counts_of_call(program: Path, batch: int, hidden: int) -> int:
    """Count the instructions of a short call of a layer, within the kernels."""
    one, more = (_count(program, "layer", SHORT, batch, hidden, calls) for calls in (1, 1 + CALLS))
    return round((more - one) / CALLS)


def table(program: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> list[str]:
    """A row for each size and direction: the instructions, and the fewest multiply-adds."""
    rows = [HEADER]
    for direction in ("forward", "backward"):
        for batch, hidden in sizes:
            every = counts(program, direction, batch, hidden)
            least = batch * hidden * -(-hidden // LANES)
            share = f"{least / every:.0%}"
            rows.append((direction, f"({batch}, {hidden})", str(every), str(least), share))
    for batch, hidden in sizes:
        every = counts_of_call(program, batch, hidden)
        least = 2 * SHORT * batch * hidden * -(-hidden // LANES)
        name = f"layer, {SHORT} steps"
        rows.append((name, f"({batch}, {hidden})", str(every), str(least), f"{least / every:.0%}"))
    return aligned(rows, 2)


def build(folder: Path) -> Path:
    """Compile the program, and return its path.

    Raises:
        RuntimeError: the compiler or valgrind is missing, or the compilation failed.
    """
    for tool in ("c++", "valgrind"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} is not installed")
    program = folder / "cpu_counts"
    status, output = run(("c++", *FLAGS, *map(str, SOURCES), "-o", str(program)), COMPILE_SECONDS)
    if status != 0:
        raise RuntimeError(f"cpu_counts.cpp does not compile: {output[-500:]}")
    return program


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            print("\n".join(table(build(Path(folder)))))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
