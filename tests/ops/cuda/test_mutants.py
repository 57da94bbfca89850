"""Broken kernels, each of which the emulator must notice.

A mutant is a kernel with a mistake in it, and problems under twenty schedules; under one of them it
must give a wrong result or end with an error. The kernel without the mistake, made in the same way,
must be right under all of them. The same seed is the same schedule.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from fastrnn.testing import Problem
from tests.ops.cuda.emulated import SOURCES, Emulated, EmulationError, cut
from tests.ops.cuda.test_emulated import ELEMENTS
from tests.ops.cuda.test_special import INFINITY, ONES, check

SEEDS = 20  # schedules of each

#: The only instance of a kernel that is compiled: lines of the launchers that choose one, by
#: strategy, and what is in those that are kept. It takes a tenth of the time that all take.
INSTANCES = {
    "cluster": (r"^ +(case|default).* return (launch_|with_rows).*\n", ("RESIDENT, 1>", "int, 4>")),
    "grid": (r"^ +case \d.* return launch_.*\n", ("<E, D, 1, 4>",)),
    "step": (r"^.* return launch_steps<.*\n", ("<E, D, 1>",)),
}


@dataclass(frozen=True)
class Kernel:
    strategy: str
    direction: str
    element: str = "bfloat16"

    def __str__(self) -> str:
        return f"{self.strategy}-{self.direction}-{self.element}"

    def built(self, changed: Mapping[str, Mapping[str, str]]) -> Emulated:
        """Its one instance, with texts replaced; `changed` by file of csrc/cuda, old text: new."""
        pattern, instances = INSTANCES[self.strategy]
        source = f"{self.strategy}_{self.element}.cu"
        texts = {
            f"{self.strategy}.h": narrowed(self.text(f"{self.strategy}.h"), pattern, instances),
            source: narrowed(self.text(source), r"^template .*\n", (f"{self.direction.title()}&",)),
        }
        for file, replaced in changed.items():
            text = texts.get(file) or self.text(file)
            for old, new in replaced.items():
                assert text.count(old) == 1, f"{file} has, not once: {old}"
                text = text.replace(old, new)
            texts[file] = text
        return Emulated({f"cuda/{file}": text for file, text in texts.items()})

    @staticmethod
    def text(file: str) -> str:
        return (SOURCES / "cuda" / file).read_text()


def narrowed(text: str, pattern: str, kept: tuple[str, ...]) -> str:
    """Without the lines of this pattern, but for those that have one of `kept` in them."""
    lines = [match[0] for match in re.finditer(pattern, text, re.MULTILINE)]
    for part in kept:
        assert any(part in line for line in lines), f"no line of {pattern} has {part}"
    for line in lines:
        if not any(part in line for part in kept):
            text = text.replace(line, "")
    return text


class Runs:
    """A problem, how it is cut, and what is special about it."""

    def __init__(
        self,
        hidden: int,
        steps: int = 5,
        batch: int = 3,
        layout: str = "dense",
        reverse: bool = False,
        relu: bool = False,
        spoilt: Mapping[str, float] | None = None,
        processors: int = 8,
        **tiling: int,
    ) -> None:
        self._problem: dict[str, Any] = {
            "steps": steps,
            "batch": batch,
            "groups": 1,
            "hidden": hidden,
            "layout": layout,
            "activation": "relu" if relu else "tanh",
            "reverse_from": 0 if reverse else 1,
        }
        self._spoilt = dict(spoilt or {})
        self._processors = processors
        self._tiling = tiling

    def first_fault(self, module: Emulated, kernel: Kernel) -> Exception | None:
        """What is noticed first, under the schedules of the first seeds."""
        dtype, mode = ELEMENTS[kernel.element]
        options: dict[str, Any] = {"strategy": kernel.strategy, "processors": self._processors}
        if kernel.strategy != "step":
            hidden = self._problem["hidden"]
            options["tiling"] = cut(kernel.strategy, hidden, dtype, **self._tiling)
        for seed in range(SEEDS):
            problem = Problem(**self._problem, dtype=dtype, seed=seed)
            try:
                check(kernel.direction, problem, mode, self._spoilt, module, seed=seed, **options)
            except (AssertionError, EmulationError) as fault:
                return fault
        return None


@dataclass(frozen=True)
class Mutant:
    name: str
    kernel: Kernel
    file: str
    replaced: Mapping[str, str]
    runs: Runs
    noticed: str  # in the text of what is noticed
    quick: bool = False


CLUSTER = Kernel("cluster", "forward")
CLUSTER_BACKWARD = Kernel("cluster", "backward")
CLUSTER_FLOAT32 = Kernel("cluster", "forward", "float32")  # whose tolerance hides nothing
GRID = Kernel("grid", "forward")
GRID_BACKWARD = Kernel("grid", "backward")
GRID_FLOAT32 = Kernel("grid", "forward", "float32")
STEP = Kernel("step", "forward")
STEP_BACKWARD = Kernel("step", "backward")

MUTANTS = [
    # cluster
    Mutant(
        "one buffer",
        CLUSTER,
        "cluster.h",
        {
            "to = destination + (s + 1) % 2 * state_bytes": "to = destination",
            "base + operand + s % 2 * state_bytes": "base + operand",
        },
        Runs(48, blocks=2),
        "not close",
    ),
    Mutant(
        "no bytes expected again",
        CLUSTER,
        "cluster.h",
        {"if (threadIdx.x == 0 && blocks > 1) ptx::mbarrier_arrive_expect(barrier, bytes);": ""},
        Runs(32, blocks=2),
        "deadlock",
        quick=True,
    ),
    Mutant(
        "the wrong phase",
        CLUSTER,
        "cluster.h",
        {"unsigned(s - 1) / 2 % 2": "unsigned(s) / 2 % 2"},
        Runs(32, blocks=2),
        "not close|one arrival too many",
    ),
    Mutant(
        "the state not waited for",
        CLUSTER,
        "cluster.h",
        {"ptx::mbarrier_wait(barrier, unsigned(s - 1) / 2 % 2);": ""},
        Runs(32, blocks=2),
        "not close|one arrival too many",
    ),
    Mutant(
        "one thread alone waits for the state",
        CLUSTER,
        "cluster.h",
        {"ptx::mbarrier_wait(barrier,": "if (threadIdx.x == 0) ptx::mbarrier_wait(barrier,"},
        Runs(64, blocks=2),
        "not close|deadlock",
    ),
    Mutant(
        "the cluster does not meet first",
        CLUSTER,
        "cluster.h",
        {"  ptx::cluster_barrier();\n\n": "  __syncthreads();\n\n"},
        Runs(32, blocks=2),
        "not initialised",
    ),
    Mutant(
        "mbarriers not made known",
        CLUSTER,
        "cluster.h",
        {"    ptx::mbarrier_init_fence();\n": ""},
        Runs(32, blocks=2),
        "before mbarrier_init_fence",
    ),
    Mutant(
        "the last state is sent, and no cluster meets last",
        CLUSTER,
        "cluster.h",
        {
            "if (!backward && s + 1 == steps) {": "if (false) {",
            "  ptx::cluster_barrier();\n#endif": "#endif",
        },
        Runs(32, blocks=2),
        "has left",
    ),
    Mutant(
        "splits do not meet",
        CLUSTER,
        "product.h",
        {"    ptx::named_barrier(barrier, 32 * count);\n": ""},
        Runs(64, blocks=2, splits=2),
        "not close",
    ),
    Mutant(
        "reads ahead not waited for",
        CLUSTER,
        "cluster.h",
        {"      ptx::copy_wait<AHEAD - 1>();\n": ""},
        Runs(16),
        "not close",
    ),
    Mutant(
        "reads ahead waited for a step late",
        CLUSTER_BACKWARD,
        "cluster.h",
        {"ptx::copy_wait<AHEAD - 1>();": "ptx::copy_wait<AHEAD>();"},
        Runs(16, steps=7),
        "not close",
    ),
    Mutant(
        "rows beyond the batch",
        CLUSTER,
        "cluster.h",
        {"~0u >> (32 - rows) : 0;": "~0u : 0;"},
        Runs(32, blocks=2),
        "heap-buffer-overflow|deadlock|not close",
    ),
    Mutant(
        "units beyond H sent",
        CLUSTER,
        "cluster.h",
        {"= unit < H ? ~0u >> (32 - rows) : 0;": "= ~0u >> (32 - rows);"},
        Runs(20, blocks=2),
        "deadlock|not close|has left",
    ),
    Mutant(
        "values beyond H kept",
        CLUSTER,
        "cluster.h",
        {"real_units = unit_mask<E>(unit, H);": "real_units{~0u, ~0u};"},
        Runs(18, blocks=2, spoilt={"h0": INFINITY}),
        "not close",
    ),
    Mutant(
        "fewer bytes expected",
        CLUSTER,
        "cluster.h",
        {"rows * ((H + E::chunk - 1) / E::chunk) * 8;": "rows * H * size;"},
        Runs(33, blocks=2),
        "deadlock|not close",
    ),
    Mutant(
        "lanes of one block not waited for",
        CLUSTER_FLOAT32,
        "cluster.h",
        {"        __syncwarp();\n": ""},
        Runs(17, steps=40, batch=8),
        "not close",
    ),
    Mutant(
        "inactive rows forget their state",
        CLUSTER,
        "cluster.h",
        {"kept = backward ? uint2{0, 0} : h[n][i];": "kept{0, 0};"},
        Runs(32, blocks=2, layout="lengths"),
        "not close",
    ),
    Mutant(
        "inactive rows forget dh",
        CLUSTER_BACKWARD,
        "cluster.h",
        {"+= product ? 0 : dh[n][i];": "+= s > 0 ? 0 : dh[n][i];"},
        Runs(32, blocks=2, layout="lengths"),
        "not close",
    ),
    Mutant(
        "reverse groups not reversed",
        CLUSTER_BACKWARD,
        "cluster.h",
        {"(group >= p.reverse_from) != backward;": "backward;"},
        Runs(32, blocks=2, reverse=True),
        "not close",
    ),
    Mutant(
        "units of W_hh in another order",
        CLUSTER,
        "element.h",
        {"return 4 * (g / 2) + g % 2;": "return 4 * (g / 2) + 2 * (g % 2);"},
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "the wrong half of W_hh transposed",
        CLUSTER_BACKWARD,
        "element.h",
        {
            "first = ptx::transpose(chunk.x), second = ptx::transpose(chunk.y);\n  }\n  __device__ "
            "static uint2 operand": "first = ptx::transpose(chunk.y), second = "
            "ptx::transpose(chunk.x);\n  }\n  __device__ static uint2 operand"
        },
        Runs(32, blocks=2),
        "not close",
    ),
    Mutant(
        "lengths ignored",
        CLUSTER,
        "cluster.h",
        {"int(p.lengths ? p.lengths[first_row + lane_index] : p.T);": "int(p.T);"},
        Runs(32, blocks=2, layout="lengths"),
        "not close",
    ),
    # grid
    Mutant(
        "memory not filled",
        GRID,
        "grid.h",
        {"if (p.T > 0) fill(exchange.states, 0xff, p.T * exchange.step, stream);": ""},
        Runs(32, splits=2),
        "not close",
        quick=True,
    ),
    Mutant(
        "a state may be what stands for none",
        GRID_FLOAT32,
        "grid.h",
        {"{chunk.x == absent ? nan : chunk.x, chunk.y == absent ? nan : chunk.y}": "chunk"},
        Runs(32, splits=2, relu=True, spoilt={"pre": ONES}),
        "deadlock",
    ),
    Mutant(
        "the state not waited for",
        GRID,
        "grid.h",
        {"int again = row.awaited; again;": "int again = 0; again;"},
        Runs(32, splits=2),
        "not close",
    ),
    Mutant(
        "one word in four waited for",
        GRID_BACKWARD,
        "grid.h",
        {" || words.y == absent || words.z == absent || words.w == absent": ""},
        Runs(48, splits=2),
        "not close",
    ),
    Mutant(
        "h0 waited for",
        GRID,
        "grid.h",
        {"needed ? kept->inside : 0, !begins}": "needed ? kept->inside : 0, true}"},
        Runs(32, splits=2, spoilt={"h0": ONES}),
        "deadlock",
    ),
    Mutant(
        "one half of the sums",
        GRID,
        "grid.h",
        {"sums + (t & 1) * sums_size": "sums"},
        Runs(96, steps=8, batch=16, rows=16, splits=2),
        "not close",
    ),
    Mutant(
        "splits do not meet",
        GRID_BACKWARD,
        "grid.h",
        {"    __syncthreads();\n    if (ends) {": "    if (ends) {"},
        Runs(64, splits=2),
        "not close",
    ),
    Mutant(
        "not cooperative",
        GRID,
        "grid.h",
        {"    shape.cooperative = true;\n": ""},
        Runs(96, splits=2),
        "blocks wait for a place to run",
    ),
    Mutant(
        "more at once than there is room for",
        GRID,
        "grid.h",
        {"at_once = std::min(plan.at_once, room);": "at_once = plan.at_once;"},
        Runs(32, batch=20, processors=5, at_once=3),
        "more blocks than can run at once",
    ),
    Mutant(
        "units beyond the row handed over",
        GRID,
        "grid.h",
        {"if (ending.unit >= exchange.width) return true;": ""},
        Runs(18, splits=2),
        "not close|heap-buffer-overflow",
    ),
    Mutant(
        "values beyond H handed over",
        GRID,
        "grid.h",
        {"present<E>({chunk.x & real.x, chunk.y & real.y})": "present<E>(chunk)"},
        Runs(18, splits=2, spoilt={"h0": INFINITY}),
        "not close",
    ),
    Mutant(
        "short rows begin at the last step of all",
        GRID,
        "ending.h",
        {"return t + 1 < length ? t + 1 : -1;": "return t + 1 < steps ? t + 1 : -1;"},
        Runs(32, splits=2, layout="lengths", reverse=True),
        "not close|deadlock",
    ),
    Mutant(
        "reverse groups not reversed",
        GRID,
        "ending.h",
        {"(group >= p.reverse_from) != is_backward<D>}": "is_backward<D>}"},
        Runs(32, splits=2, reverse=True),
        "not close",
    ),
    Mutant(
        "steps that no row has",
        GRID,
        "grid.h",
        {"for (int t = steps; t < p.T; ++t) ending.store_zeros(ending.result(), t);": ""},
        Runs(32, splits=2, batch=1, layout="lengths"),
        "not close",
    ),
    Mutant(
        "grad_h0 without the last product",
        GRID_BACKWARD,
        "grid.h",
        {": t < length || t == order.end();": ": t < length;"},
        Runs(32, splits=2, reverse=True),
        "not close",
    ),
    Mutant(
        "short rows forget grad_h_n",
        GRID_BACKWARD,
        "ending.h",
        {"this->order.previous(t, length) < 0 &&": "t == this->order.time(0) &&"},
        Runs(32, splits=2, layout="lengths"),
        "not close",
    ),
    # step
    Mutant(
        "the step before, of a reverse group too",
        STEP,
        "step.h",
        {"(p.out) + p.at(previous, b, tile.group);": "(p.out) + p.at(tile.t - 1, b, tile.group);"},
        Runs(32, reverse=True),
        "not close|heap-buffer-overflow",
    ),
    Mutant(
        "no launch for grad_h0",
        STEP_BACKWARD,
        "step.h",
        {"(is_backward<D> || p.T == 0);": "(p.T == 0);"},
        Runs(32),
        "not close",
        quick=True,
    ),
    Mutant(
        "inactive rows not zeroed",
        STEP,
        "ending.h",
        {"    store_zeros(result, t);\n": ""},
        Runs(32, layout="lengths"),
        "not close",
        quick=True,
    ),
    Mutant(
        "rows without steps forget h0",
        STEP,
        "step.h",
        {"  if (i == 0) ending.begin();\n": ""},
        Runs(16, steps=1, batch=6, layout="lengths"),
        "not close",
    ),
    Mutant(
        "warps do not meet",
        STEP_BACKWARD,
        "step.h",
        {"  __syncthreads();\n  if (warp >= N) return;": "  if (warp >= N) return;"},
        Runs(32),
        "not close",
    ),
    Mutant(
        "rows beyond the batch",
        STEP_BACKWARD,
        "ending.h",
        {"  if (b >= p.B) return -1;\n": ""},
        Runs(32),
        "heap-buffer-overflow",
    ),
]

#: Changes that are no mistakes: each is right under every schedule of all the mutants' problems.
BENIGN = {
    # Nothing is sent to a block that it does not wait for, and it leaves no earlier.
    "no cluster meets last": ("cluster.h", {"  ptx::cluster_barrier();\n#endif": "#endif"}),
}


def runs_of(kernel: Kernel) -> list[Runs]:
    return [mutant.runs for mutant in MUTANTS if mutant.kernel == kernel]


@pytest.fixture
def built() -> Iterator[Callable[..., Emulated]]:
    with contextlib.ExitStack() as stack:

        def build(kernel: Kernel, changed: Mapping[str, Mapping[str, str]]) -> Emulated:
            return stack.enter_context(contextlib.closing(kernel.built(changed)))

        yield build


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(
            mutant,
            marks=[] if mutant.quick else pytest.mark.slow,
            id=f"{mutant.kernel}-{mutant.name}",
        )
        for mutant in MUTANTS
    ],
)
def test_noticed(mutant: Mutant, built: Callable[..., Emulated]) -> None:
    module = built(mutant.kernel, {mutant.file: mutant.replaced})
    fault = mutant.runs.first_fault(module, mutant.kernel)
    assert fault is not None
    assert re.search(mutant.noticed, str(fault)), fault


@pytest.mark.slow
@pytest.mark.parametrize("kernel", {mutant.kernel: None for mutant in MUTANTS}, ids=str)
def test_right(kernel: Kernel, built: Callable[..., Emulated]) -> None:
    module = built(kernel, {})
    for runs in runs_of(kernel):
        assert runs.first_fault(module, kernel) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", BENIGN)
@pytest.mark.parametrize("kernel", [CLUSTER, CLUSTER_BACKWARD], ids=str)
def test_benign(kernel: Kernel, name: str, built: Callable[..., Emulated]) -> None:
    file, replaced = BENIGN[name]
    module = built(kernel, {file: replaced})
    for runs in runs_of(kernel):
        assert runs.first_fault(module, kernel) is None
