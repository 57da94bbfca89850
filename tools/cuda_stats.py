"""Print statistics of the compiled CUDA kernels, without a GPU: `python -m tools.cuda_stats`.

This needs nvcc, the cuobjdump of the Triton package, and the C++ extension, which makes the plans.
For each strategy, dtype and H it prints the plan for an H100 and the resources of its kernel:
registers per thread, spilled bytes, shared memory, and the instructions of one iteration of the
loop over the steps. No kernel runs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product, repeat
from pathlib import Path
from typing import Any

from benchmarks.report.markdown import aligned, legend, replace
from benchmarks.report.markdown import table as markdown_table
from fastrnn._explain import GPUS
from fastrnn.ops.backends import cpu
from fastrnn.ops.cells import CODES

from .sass import Stats, cuobjdump, spilled, stats

SOURCES = Path(__file__).parents[1] / "csrc"
ARCHS = ("80", "90a", "100")
MODES = {"Bfloat16": "half", "Float16": "half", "Tf32": "tf32", "Float32": "float32"}
HIDDEN = (64, 128, 256, 512, 1024, 2048, 4096)
DOCUMENTED = (128, 512, 1024, 2048, 4096)
DOCUMENTED_CELLS = (128, 512, 1024)
#: The mode of each cell of an `Instance`, for the plan.
CELLS = {"": "RNN_TANH", "Lstm": "LSTM", "Gru": "GRU"}
#: The cells of layers, by their names in csrc/cuda/cells.h, and the layers of a documented stack.
LAYERS = {"Elman": "", "Lstm": "Lstm", "Gru": "Gru"}
STACK = 4


@dataclass(frozen=True)
class Instance:
    """A compiled kernel: a template and its arguments."""

    strategy: str
    element: str
    direction: str
    parameters: tuple[int, ...]
    resets: bool = False
    cell: str = ""  #: the name in csrc/cuda/cells.h; "" for nn.RNN's cells

    def __str__(self) -> str:
        """A name for pytest, without characters that need quoting."""
        kind = self.cell or "resets" * self.resets
        words = self.strategy, *([kind] if kind else []), self.element, self.direction
        return "-".join(map(str, [*words, *self.parameters]))


NAME = re.compile(
    r"(cluster|grid|step|rows)(?:_cell|_forward|_backward)?_kernel<fastrnn::cuda::(\w+), "
    r"(?:fastrnn::cuda::PassParams<fastrnn::(\w+), fastrnn::cuda::(\w+)Tensors>"
    r"|fastrnn::cuda::(?:LayersOf<fastrnn::cuda::|Cell)?(\w+)Of<(.*?)(?: ?>)+)"
    r"((?:, \(?\w*\)?\d+)*)>\(",
    re.ASCII,
)


def sources(strategy: str = "*") -> list[Path]:
    """The source files of the instances, for each strategy and dtype."""
    return sorted(SOURCES.glob(f"cuda/instances/{strategy}_*.cu"))


def nvcc() -> str | None:
    """The path of nvcc, or None."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def compiled(source: Path, arch: str) -> dict[Instance, Stats]:
    """The statistics of a file's instances on an architecture, without dynamic shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
        command = [nvcc() or "nvcc", "-std=c++20", "-O3", f"-I{SOURCES}", target, "-cubin"]
        subprocess.run([*command, "-o", cubin, source], check=True, capture_output=True, text=True)
        return read(cubin, arch)


def read(binary: Path, arch: str) -> dict[Instance, Stats]:
    """The statistics of the instances in a cubin or a library."""
    code = _functions(cuobjdump("-sass", f"-arch=sm_{arch}", binary))
    return {
        instance: stats(usage, code[mangled], 0)
        for mangled, instance, usage in _instances(binary, arch)
    }


def spills(library: Path, arch: str) -> dict[Instance, int]:
    """The bytes per thread that the instances of a library spill; faster than `read`."""
    return {instance: spilled(usage) for _, instance, usage in _instances(library, arch)}


def _instances(binary: Path, arch: str) -> Iterator[tuple[str, Instance, str]]:
    """The mangled name, instance and resource usage of all kernels, except those that only copy."""
    usage = _functions(cuobjdump("-res-usage", f"-arch=sm_{arch}", binary))
    plain = subprocess.run(
        ["c++filt"], input="\n".join(usage), capture_output=True, text=True, check=True
    )
    for mangled, name in zip(usage, plain.stdout.splitlines(), strict=True):
        found = NAME.search(name)
        if found is not None:
            strategy, element, problem, direction, of_cell, cell, rest = found.groups()
            numbers = tuple(int(number) for number in re.findall(r"\d+", rest))
            name = (direction or of_cell).lower()
            kind = problem == "ParamsWithResets", (cell or "").rpartition("::")[2]
            yield mangled, Instance(strategy, element, name, numbers, *kind), usage[mangled]


def _functions(text: str) -> dict[str, str]:
    """Split the output of cuobjdump by function; the keys are mangled names."""
    parts = re.split(r"Function\s*:?\s*(\S+?):?\s*\n", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def parameters(strategy: str, plan: Any) -> tuple[int, ...]:
    """The template arguments of the instance that a plan names."""
    tiling = plan.tiling
    if strategy == "cluster":
        return tiling.resident, tiling.n_tiles
    if strategy == "rows":
        return (8 if plan.threads <= 128 else 16 if plan.threads <= 256 else 32,)
    return tiling.m_tiles, tiling.resident


COLUMNS = (
    *("kernel", "mode", "H", "blocks", "tiling"),
    *("registers", "spilled", "shared", "of", "loop", "matrix", "barriers", "local", "fences"),
)
WORDS = COLUMNS.index("registers")


def rows(
    arch: str,
    taken: dict[Instance, Stats],
    batch: int,
    hidden: Iterable[int] = HIDDEN,
    cell: str = "",
) -> Iterator[tuple[str, ...]]:
    """A row for each strategy, dtype, H and direction, with the instance that the plan names."""
    gpu = "A100" if arch == "80" else "H100"
    limit = GPUS[gpu].shared
    module = cpu.EXTENSION.module
    device = module.Device(*GPUS[gpu][1:])
    for strategy, element, H in product(("cluster", "grid"), MODES, hidden):
        for direction in ("forward", "backward"):
            sizes = 100, batch, 1, H, CODES[CELLS[cell]]
            _, options = module.plans(device, MODES[element], direction == "backward", *sizes)
            plan = options[strategy]
            if isinstance(plan, str):
                continue
            numbers = parameters(strategy, plan)
            instance = Instance(strategy, element, direction, numbers, cell=cell)
            yield _row(instance, H, plan, taken[instance], limit)
    steps = [i for i in taken if i.strategy == "step" and not i.resets and i.cell == cell]
    order = [*MODES, "Float64"]
    for instance in sorted(
        steps, key=lambda i: (order.index(i.element), i.parameters, i.direction == "backward")
    ):
        yield _row(instance, "any", None, taken[instance], limit)


def layer_rows(taken: dict[Instance, Stats], batch: int) -> Iterator[tuple[str, ...]]:
    """The same of kernels that only the operators of layers use: `rows`, and those of stacks."""
    module, limit = cpu.EXTENSION.module, GPUS["H100"].shared
    device = module.Device(*GPUS["H100"][1:])
    sizes = product((1, STACK), LAYERS, ("Bfloat16", "Tf32"), (64, 128))
    for count, cell, element, H in sizes:
        for direction in ("forward", "backward"):
            mode = MODES[element], direction == "backward"
            steps = 100 if count == 1 else 8  # of many steps, each layer is a launch
            calls = steps, batch, H, count, H, CODES[CELLS[LAYERS[cell]]]
            plan = module.stack_plans(device, *mode, *calls)[0]
            if plan.tiling.layers < count or (count == 1 and plan.strategy != "rows"):
                continue
            numbers = parameters(plan.strategy, plan)
            projects = "projected" if count > 1 or direction == "forward" else ""
            instance = Instance(plan.strategy, element, projects + direction, numbers, cell=cell)
            yield _row(instance, H, plan, taken[instance], limit)


def _row(instance: Instance, H: object, plan: Any, used: Stats, limit: int) -> tuple[str, ...]:
    mode = MODES.get(instance.element, "float64")
    if instance.element == "Float16":
        mode = "half (fp16)"
    strategy, direction = instance.strategy, instance.direction
    if strategy == "cluster" and direction.startswith("projected"):
        strategy += f", {STACK} layers"
    direction = direction.removeprefix("projected")
    if LAYERS.get(instance.cell, instance.cell):
        strategy += f" {instance.cell.upper()}"
    kernel = f"{strategy}.{direction}"
    resources: tuple[object, ...] = (used.registers, used.spilled, "-", "-")
    blocks, tiling = "-", f"r{8 * instance.parameters[0]}"
    if plan is not None:
        t, blocks, of = plan.tiling, plan.tiling.blocks, f"{plan.shared / limit:.0%}"
        tiling = f"r{t.rows} m{t.m_tiles} s{t.splits} k{t.resident}+{t.streamed}"
        if plan.strategy == "rows":
            blocks, tiling = 1, "r1"
        resources = used.registers, used.spilled, plan.shared, of
    loop = (used.instructions, used.matrix, used.barriers, used.local, used.fences)
    return tuple(map(str, (kernel, mode, H, blocks, tiling, *resources, *loop)))


def markdown(table: Iterable[tuple[str, ...]]) -> list[str]:
    """The Markdown table, with `forward / backward` in one row."""
    pairs: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for kernel, mode, H, *cells in table:
        strategy = kernel.partition(".")[0]
        # Several instances of `step` share a name.
        key = strategy, mode, H, cells[1] if strategy.startswith("step") else ""
        pairs.setdefault(key, []).append(tuple(cells))
    lines = [
        (*key[:3], *(" / ".join(dict.fromkeys(cell)) for cell in zip(*both, strict=True)))
        for key, both in pairs.items()
    ]
    return markdown_table(COLUMNS, lines, WORDS)


DOCUMENT = Path(__file__).parents[1] / "docs/kernels.md"
BATCH = 16

LEGEND = {
    "blocks": "the blocks that share W_hh, a cluster or a team; of a stack, those of a layer",
    "tiling": "batch rows per tile (r), tiles of 16 units per block (m), splits of the depth (s), "
    "k-steps of 32 bytes that a warp keeps in registers + in shared memory (k)",
    "registers, spilled": "registers and spilled bytes per thread",
    "shared, of": "bytes per block, and their share of the device's",
    "loop": "instructions of the loop over the steps, in `step` over the depth, with all its rare "
    "branches; an inner loop is counted once",
    "matrix, barriers, local, fences": "products on the matrix units, barriers, accesses to local "
    "memory and fences in that loop",
}
EPILOG = " ".join(f"{name}: {meaning}." for name, meaning in LEGEND.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=EPILOG)
    parser.add_argument("--arch", choices=ARCHS, action="append", help="default: 90a")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"B; default: {BATCH}")
    parser.add_argument("--instances", action="store_true", help="print all instances, by name")
    parser.add_argument("--write", action="store_true", help="rewrite the table of kernels.md")
    arguments = parser.parse_args()
    for arch in arguments.arch or ["90a"]:
        taken = measure(arch, resets=arguments.instances)
        if arguments.write:
            shown = [row for row in rows(arch, taken, BATCH, DOCUMENTED) if "fp16" not in row[1]]
            for cell in ("Lstm", "Gru"):
                of_cell = rows(arch, taken, BATCH, DOCUMENTED_CELLS, cell)
                shown += [row for row in of_cell if row[1] in ("half", "tf32")]
            shown += layer_rows(taken, BATCH)
            write(markdown(shown))
            continue
        print(f"\nsm_{arch}, the plans for B={arguments.batch}\n{EPILOG}\n")
        if arguments.instances:
            print("\n".join(f"{instance!s:<34}{used}" for instance, used in taken.items()))
        else:
            lines = [row for cell in CELLS for row in rows(arch, taken, arguments.batch, cell=cell)]
            if arch != "80":
                lines += layer_rows(taken, arguments.batch)
            print("\n".join(aligned([COLUMNS, *lines], WORDS)))


def measure(arch: str, resets: bool) -> dict[Instance, Stats]:
    """Compile the instances for an architecture, with or without those for resets."""
    without = [] if resets else ["resets", "leaky"]
    if arch == "80":
        without.append("cluster")  # its kernels are empty on 8.0
    files = [file for file in sources() if not any(word in file.name for word in without)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(compiled, files, repeat(arch)))
    return {instance: used for part in parts for instance, used in part.items()}


def write(table: list[str]) -> None:
    """Replace the table in docs/kernels.md."""
    caption = (
        f"The plans for an H100 (sm_90a) and B = {BATCH}. half is bfloat16. Where forward and "
        "backward pass differ, a cell has both. `python -m tools.cuda_stats --write` writes this "
        "table."
    )
    replace(DOCUMENT, "cuda_stats", "\n".join([caption, "", *legend(LEGEND), "", *table]))


if __name__ == "__main__":
    main()
