"""Print statistics of the compiled Triton kernels, without a GPU: `python -m tools.kernel_stats`.

For every configuration that `ops.backends.triton.table` can choose, on each architecture, it prints
registers per thread, spilled bytes, shared memory and its share of the device's, and the
instructions of one iteration of the loop over the steps. No kernel runs.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from benchmarks.report.markdown import aligned, legend, replace
from benchmarks.report.markdown import table as markdown_table
from fastrnn.ops.backends.triton.table import MODES, TABLE, Sizes, choose, unserved_reason
from fastrnn.ops.cells import CELLS as EVERY_CELL
from fastrnn.ops.cells import CODES
from fastrnn.ops.cells.base import Cell

from .sass import Stats, cuobjdump, stats

#: Bytes of shared memory that a program may use, and multiprocessors, by compute capability: A100,
#: H100 and H200, B200.
DEVICES = {(8, 0): (166912, 108), (9, 0): (232448, 132), (10, 0): (232448, 148)}

DIRECTIONS = ("forward", "backward")
LAYOUTS = ("dense", "lengths", "packed")
ACTIVATIONS = ("tanh", "relu")
DTYPES = {
    "half": (torch.bfloat16, torch.float16),
    "tf32": (torch.float32,),
    "float32": (torch.float32,),
}

#: The limits of the table, larger sizes, and odd sizes whose rows are not aligned to 16 bytes: one
#: for each power of two that single_cta and rows pad to.
LIMITS = sorted({row.hidden for row in TABLE if row.kernel != "grid"})
HIDDEN = (5, 23, *(limit - limit // 4 - 1 for limit in LIMITS), *LIMITS)
HIDDEN += (512, 1000, 1024, 2048, 4096)
BATCHES = (1, 2**16)  # fewer programs than multiprocessors, and more

#: Arguments at run time; the compiled program does not depend on them.
RUN_TIME = {
    "steps": 100,
    "batch": 32,
    "groups": 2,
    "reverse_from": 1,
    "begin": 0,
    "end": 100,
    "first_team": 0,
}
NOT_AS_PRE = {
    "lengths": torch.int64,
    "offsets": torch.int64,
    "resets": torch.uint8,
    "arrived": torch.int64,
    "dh": torch.float32,
}
ABSENT = {"dense": {"lengths", "offsets"}, "lengths": {"offsets"}, "packed": set()}
OF_RESETS = {"resets", "reset_h", "reset_c", "start", "grad_reset_h", "grad_reset_c"}

#: Cells that save gates, by the name of the kernels' constant, and a mode of each.
CELLS = {"LSTM": "LSTM", "GRU": "GRU", "LEAKY": "LEAKY_TANH", "LEAKY_PRE": "LEAKY_PRE_TANH"}


@dataclass(frozen=True)
class Case:
    """One kernel as a launcher compiles it."""

    kernel: str  #: its name in the table
    direction: str
    mode: str
    dtype: torch.dtype
    hidden: int
    layout: str
    activation: str
    capability: tuple[int, int]
    configuration: tuple[tuple[str, Any], ...]  #: constants and compiler options
    at_once: bool = True  #: all steps in one launch
    resets: bool = False
    cell: str = "RNN"  #: or one of CELLS

    def __str__(self) -> str:
        """A name for pytest, without characters that need quoting."""
        dtype = str(self.dtype).removeprefix("torch.")
        what = f"{self.name}-{self.mode}-{dtype}-H{self.hidden}"
        layout = f"{self.layout}-resets" if self.resets else self.layout
        return f"{what}-{self.shape}-{layout}-{self.activation}-{self.arch}"

    @property
    def name(self) -> str:
        name = f"{self.kernel}.{self.direction}"
        return name if self.cell == "RNN" else f"{name}.{self.cell}"

    @property
    def arch(self) -> str:
        return f"sm_{self.capability[0]}{self.capability[1]}"

    @property
    def shape(self) -> str:
        """A name of the configuration: the rows, columns and warps of a program."""
        get = dict(self.configuration).get
        named = (("ROWS", "r"), ("COLS", "c"), ("num_warps", "w"))
        shape = "".join(f"{letter}{get(name)}" for name, letter in named if get(name))
        if get("RESIDENT") is not None:
            shape += "s" if get("RESIDENT") else "l2"  # where the columns of W_hh are
        return shape if self.at_once else shape + "-steps"

    @property
    def limit(self) -> int:
        """Bytes of shared memory that a program may use."""
        return DEVICES[self.capability][0]


def cases(
    capabilities: Iterable[tuple[int, int]] = tuple(DEVICES),
    layouts: Iterable[str] = ("dense",),
    activations: Iterable[str] = ("tanh",),
    halves: Iterable[torch.dtype] = (torch.bfloat16,),
    resets: bool = False,
    cells: Iterable[str] = ("RNN",),
) -> Iterator[Case]:
    """All configurations that the table can choose, for both directions, in these variants."""
    chosen = {
        (kernel, mode, hidden, capability, at_once, tuple(configuration.items()), cell): None
        for cell in cells
        for capability in capabilities
        for mode in MODES
        for hidden in HIDDEN
        for kernel, configuration, at_once in _configurations(mode, hidden, capability, cell)
    }
    for kernel, mode, hidden, capability, at_once, configuration, cell in chosen:
        for dtype in halves if mode == "half" else (torch.float32,):
            for direction in DIRECTIONS:
                for layout in layouts:
                    for activation in activations:
                        yield Case(
                            *(kernel, direction, mode, dtype, hidden, layout, activation),
                            *(capability, configuration, at_once, resets, cell),
                        )


def _configurations(
    mode: str, hidden: int, capability: tuple[int, int], cell: str
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """The kernel in the table, its configurations, and whether one launch runs all steps."""
    for batch in BATCHES:
        wgmma = capability == (9, 0)  # the only one on which Gluon uses it
        gates = _definition(cell).gates if cell != "RNN" else 0
        sizes = Sizes(batch, 1, hidden, mode, capability, *DEVICES[capability], wgmma, gates)
        if unserved_reason(cell, sizes) is not None:
            return
        kernel = choose(sizes)
        module = _module(kernel, cell)
        if not hasattr(module, "configurations"):
            yield kernel, module.configuration(sizes), True
            continue
        *_, last = configurations = list(module.configurations(sizes))
        for configuration in configurations:
            yield kernel, configuration, True
        # The fallback where not even the last configuration fits; it does not depend on H.
        if hidden == 1024:
            yield kernel, last, False


def _module(kernel: str, cell: str) -> Any:
    module = kernel if cell == "RNN" else f"{kernel}_cells"
    return import_module(f"fastrnn.ops.backends.triton.{module}")


def _definition(cell: str) -> type[Cell]:
    return EVERY_CELL[CODES[CELLS[cell]]]


def _absent(case: Case) -> set[str]:
    """The tensors that a call does not have."""
    absent = ABSENT[case.layout] | (set() if case.at_once else {"arrived"})
    absent |= set() if case.resets else OF_RESETS
    if case.cell == "RNN":
        return absent
    cell = _definition(case.cell)
    if not cell.has_c:
        absent |= {"c0", "c_n", "reset_c", "grad_c_n", "grad_c0", "grad_reset_c"}
    if not cell.has_unit_param:
        absent |= {"unit_param", "grad_param"}
    if not cell.has_inner or (case.direction == "backward" and cell.has_c):
        absent |= {"inner"}  # which is c in the backward
    return absent


@dataclass(frozen=True)
class Device:
    """The part of a Triton driver that compiling needs; `arch` also numbers the device."""

    arch: int

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


def compile_case(case: Case, **run_time: int) -> Any:
    """Compile a case for a call with these sizes, or find it in the cache: a CompiledKernel."""
    kernel = getattr(_module(case.kernel, case.cell), case.direction)
    relu, fast = case.activation == "relu", case.mode != "float32"
    flags = {"CELL": case.cell, "RELU": relu, "FAST": fast}
    taken = {name: flag for name, flag in flags.items() if name in kernel.arg_names}
    constants = {**taken, **dict(case.configuration)}
    given = {**NOT_AS_PRE, **dict.fromkeys(_absent(case)), **RUN_TIME, **run_time}
    arguments = [given.get(name, case.dtype) for name in kernel.arg_names if name not in constants]
    device = Device(10 * case.capability[0] + case.capability[1])
    with mock.patch.object(driver, "_active", device):
        # A dtype stands for a tensor that is aligned to 16 bytes, as torch's are.
        return kernel.warmup(*arguments, grid=(1,), **constants)


def dump(case: Case, option: str) -> str:
    """Compile a case, and return what cuobjdump prints of its cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compile_case(case).asm["cubin"])
        file.flush()
        return cuobjdump(option, file.name)


def measure(case: Case) -> Stats:
    """Compile a case, and read the statistics from its cubin."""
    shared = compile_case(case).metadata.shared
    return stats(dump(case, "-res-usage"), dump(case, "-sass"), shared)


COLUMNS = (
    *("kernel", "mode", "H", "program", "layout", "activation"),
    *("registers", "spilled", "shared", "of", "loop", "matrix", "barriers", "local"),
)


def row(case: Case, taken: Stats) -> tuple[str, ...]:
    """A row of the table, with a cell for each of COLUMNS."""
    what = (case.name, case.mode, case.hidden, case.shape, case.layout, case.activation)
    resources = (
        taken.registers,
        taken.spilled,
        taken.shared,
        f"{taken.shared / case.limit:.0%}",
    )
    loop = (taken.instructions, taken.matrix, taken.barriers, taken.local)
    return tuple(map(str, (*what, *resources, *loop)))


def markdown(measured: Iterable[tuple[Case, Stats]]) -> list[str]:
    """The Markdown table, with `dense / packed` in one row."""
    pairs: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for case, taken in measured:
        cells = row(case, taken)
        pairs.setdefault(cells[:4], []).append(cells[6:])
    rows = [
        (*what, *(" / ".join(dict.fromkeys(cell)) for cell in zip(*layouts, strict=True)))
        for what, layouts in pairs.items()
    ]
    return markdown_table(COLUMNS[:4] + COLUMNS[6:], rows, words=4)


def documented(case: Case) -> bool:
    """Whether the docs show a case: the largest sizes of `rows` and `single_cta`, one of `grid`."""
    if case.cell != "RNN":
        return case.hidden in (64, 128) and case.mode == "half"
    return case.hidden == 1024 or (case.kernel != "grid" and case.hidden in (128, 256))


DOCUMENT = Path(__file__).parent.parent / "docs/kernels.md"


def write(table: list[str]) -> None:
    """Replace the table in docs/kernels.md."""
    caption = (
        f"sm_90, Triton {triton.__version__}, tanh, no resets. half is bfloat16. Where dense and "
        "packed rows differ, a cell has both. `python -m tools.kernel_stats --write` writes this "
        "table."
    )
    replace(DOCUMENT, "kernel_stats", "\n".join([caption, "", *legend(LEGEND), "", *table]))


LEGEND = {
    "program": "rows (r) and columns (c) of a tile, warps (w); s, l2: `grid` keeps its columns of "
    "W_hh in shared memory or in L2; steps: one launch per step",
    "registers, spilled": "registers and spilled bytes per thread",
    "shared, of": "bytes per program, and their share of the device's",
    "loop": "instructions of the loop over the steps; an inner loop is counted once",
    "matrix, barriers, local": "products on the matrix units, barriers and accesses to local "
    "memory in that loop",
}
EPILOG = " ".join(f"{name}: {meaning}." for name, meaning in LEGEND.items())


def main() -> None:
    archs = {f"sm_{major}{minor}": (major, minor) for major, minor in DEVICES}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=EPILOG)
    parser.add_argument("--arch", choices=archs, action="append", help="default: all")
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="default: dense")
    parser.add_argument("--activation", choices=ACTIVATIONS, action="append", help="default: tanh")
    parser.add_argument("--cell", choices=("RNN", *CELLS), action="append", help="default: all")
    parser.add_argument("--resets", action="store_true", help="the kernels for calls with resets")
    parser.add_argument("--only", default="", metavar="REGEX", help="only cases whose name matches")
    parser.add_argument(
        "--write", action="store_true", help=f"rewrite the table of {DOCUMENT.name}"
    )
    arguments = parser.parse_args()
    if arguments.write:
        every = cases([(9, 0)], ("dense", "packed"), cells=("RNN", *CELLS))
        chosen = [case for case in every if documented(case)]
    else:
        asked = [archs[arch] for arch in arguments.arch or archs]
        layouts, activations = arguments.layout or ["dense"], arguments.activation or ["tanh"]
        kinds = arguments.cell or ["RNN", *CELLS]
        every = cases(asked, layouts, activations, resets=arguments.resets, cells=kinds)
        chosen = [case for case in every if re.search(arguments.only, str(case))]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        measured = list(zip(chosen, pool.map(measure, chosen, chunksize=4), strict=True))
    if arguments.write:
        write(markdown(measured))
        return
    print(f"Triton {triton.__version__}\n{EPILOG}")
    for arch in dict.fromkeys(case.arch for case in chosen):
        print(f"\n{arch}")
        rows = [row(case, taken) for case, taken in measured if case.arch == arch]
        print("\n".join(aligned([COLUMNS, *rows], COLUMNS.index("registers"))))


if __name__ == "__main__":
    main()
