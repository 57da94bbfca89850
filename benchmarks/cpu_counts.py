"""Instructions of a step of the CPU kernels, by valgrind: `python -m benchmarks.cpu_counts`.

Of two calls that differ in their steps alone the difference is the steps'. What time alone cannot
tell apart it shows: a step that waits executes no more instructions than one that does not. One
thread, float32, tanh; the widest instruction set that valgrind knows, which is AVX2.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .machine import ROOT
from .text import aligned
from .workers import run

SOURCES = (Path(__file__).parent / "cpu_counts.cpp", *sorted((ROOT / "csrc/cpu").glob("*.cpp")))
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", f"-I{ROOT / 'csrc'}")

#: (B, H): one row, of which W_hh fits into the nearest cache or not, and a tile of rows.
SIZES = ((1, 16), (1, 64), (1, 128), (8, 64), (32, 128))

#: Steps, besides the first: what they cost is the difference.
STEPS = 100

#: A vector of AVX2 has so many numbers.
LANES = 8

#: Seconds of the compiler, and of a program under valgrind.
COMPILING, COUNTING = 240, 120

HEADER = ("direction", "(B, H)", "instructions", "multiply-adds", "of all")


def counts(program: Path, direction: str, batch: int, hidden: int) -> int:
    """Instructions of one step."""

    def of(steps: int) -> int:
        arguments = (direction, str(steps), str(batch), str(hidden))
        command = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program))
        status, said = run((*command, *arguments), COUNTING)
        found = re.search(r"Collected : (\d+)", said)
        if status != 0 or found is None:
            raise RuntimeError(f"valgrind counted nothing: {said[-500:]}")
        return int(found[1])

    return round((of(1 + STEPS) - of(1)) / STEPS)


def table(program: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> list[str]:
    """All sizes, both directions: beside all instructions those without which it cannot be done."""
    rows = [HEADER]
    for direction in ("forward", "backward"):
        for batch, hidden in sizes:
            every = counts(program, direction, batch, hidden)
            least = batch * hidden * -(-hidden // LANES)
            share = f"{least / every:.0%}"
            rows.append((direction, f"({batch}, {hidden})", str(every), str(least), share))
    return aligned(rows, 2)


def build(folder: Path) -> Path:
    """The program, compiled.

    Raises:
        RuntimeError: there is no compiler or no valgrind, or it could not be compiled.
    """
    for tool in ("c++", "valgrind"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} is not installed")
    program = folder / "cpu_counts"
    sources = [str(path) for path in SOURCES if path.name != "bindings.cpp"]  # which is torch's
    status, said = run(("c++", *FLAGS, *sources, "-o", str(program)), COMPILING)
    if status != 0:
        raise RuntimeError(f"it could not be compiled: {said[-500:]}")
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
