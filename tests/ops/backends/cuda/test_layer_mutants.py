"""Mutation tests of the layer operators: each bug must make a call differ from that of the CPU.

A library of operators can be loaded once in a process, so each mutant has a process of its own:
`python -m tests.ops.backends.cuda.test_layer_mutants LIBRARY` runs the calls.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.emulators.cuda.build import SOURCES
from tests.emulators.cuda.operators import build_operators, load
from tests.ops.test_composite_layer import EVERYTHING, Call, resized
from tests.utils.marks import requires_extension

pytestmark = requires_extension

ROOT = Path(__file__).parents[4]
INSTANCES = (
    "step_float64",
    "step_resets_float64",
    "step_gru_float64",
    "cluster_float32",
    "cluster_gru_float32",
    "cluster_projected_float32",
    "rows_float32",
)


class Mutant(NamedTuple):
    name: str
    file: str  # of csrc/cuda
    old: str
    new: str


MUTANTS = [
    Mutant(
        "both directions have the weights of the first",
        "params.h",
        "static_cast<const T*>(this->weight_hh[second])",
        "static_cast<const T*>(this->weight_hh[0])",
    ),
    Mutant(
        "the states of the directions are next to each other",
        "params.h",
        "return second * this->state_direction + b",
        "return second * this->H + b",
    ),
    Mutant(
        "both directions have the biases of the first",
        "bias.h",
        "value(second ? p.bias_ih[1] : p.bias_ih[0])",
        "value(p.bias_ih[0])",
    ),
    Mutant(
        "b_hh of n is added outside of r",
        "bias.h",
        "of_hh = gates_of<P> == 3 ? 2 : gates_of<P>",
        "of_hh = gates_of<P>",
    ),
    Mutant(
        "the initial state is that of the first layer",
        "layer.cpp",
        "part_of(stack.h0, stack, layer),\n                       saved.out",
        "part_of(stack.h0, stack, 0),\n                       saved.out",
    ),
    Mutant(
        "the gradient of the input lacks the second direction",
        "layer.cpp",
        "if (D == 2) addmm_",
        "if (D == 3) addmm_",
    ),
    Mutant(
        "h0 has no share in the gradient of W_hh",
        "weight_grad.h",
        "if (p.h0) found.state",
        "if (false) found.state",
    ),
    Mutant(
        "a reset does not end the sum over the steps",
        "weight_grad.h",
        "if (p.crosses_reset(t, b, descending)) return found;",
        "",
    ),
    Mutant(
        "padding counts in the sums",
        "weight_grad.h",
        "if (!p.active(t, b)) return {-1, -1, -1, false};",
        "",
    ),
    Mutant(
        "the gradient of W_hn is not that of the product",
        "weight_grad.h",
        "tile.kind == GradKind::weight_hh && p.cell == Cell::gru && m >= first",
        "false",
    ),
    Mutant(
        "b_hn has the gradient of b_in",
        "weight_grad.h",
        "if (!is_gru || m < first) store_value",
        "if (true) store_value",
    ),
    Mutant(
        "all blocks of a cluster sum the same rows",
        "weight_grad.h",
        "first = blockIdx.x % blocks * part",
        "first = 0",
    ),
    Mutant(
        "all gates have W_ih of the first",
        "cluster_projection.h",
        "((k % K) * p.heads + head) * p.H",
        "head * p.H",
    ),
    Mutant(
        "both directions have W_ih of the first",
        "cluster_projection.h",
        "second ? p.projection.weight_ih[1] : p.projection.weight_ih[0]",
        "p.projection.weight_ih[0]",
    ),
    Mutant(
        "x of the next step replaces that of this one",
        "cluster_projection.h",
        "rows + (s % STAGES * 8 + b) * row_bytes",
        "rows + b * row_bytes",
    ),
    Mutant(
        "the weights of all layers are those of the first",
        "weight_grad.h",
        "const WeightGradients& p = layers.of[l];",
        "const WeightGradients& p = layers.of[0];",
    ),
    Mutant(
        "the gradients of a stack pass through the layer's own W_ih",
        "layer.cpp",
        "stack.of(last - i + 1, 0).ih",
        "stack.of(last - i, 0).ih",
    ),
    Mutant(
        "all gates of the layer above have W_ih of the first",
        "pass_traits.h",
        "static_cast<Int>(gate * H + unit), gate",
        "unit, gate",
    ),
    Mutant(
        "the layer below receives the gradient of the product",
        "cluster_cell_backward.h",
        "pass_on(s, rows.active, gates);",
        "pass_on(s, rows.active, dz);",
    ),
    Mutant(
        "the gradients of all gates take the same place",
        "cluster_stack.h",
        "k * static_cast<int>(padded_units(warp.H, size)) + warp.unit",
        "warp.unit",
    ),
    Mutant(
        "blocks wait for too few sums",
        "weight_grad.h",
        "expect_sums(barrier, grad_elements * int(sizeof(Sum)));",
        "expect_sums(barrier, grad_elements / blocks * int(sizeof(Sum)));",
    ),
]

#: One runs by default with the slow tests. The others share its calls, and other tests run those
#: calls without a bug.
SLOW = ("padding counts in the sums",)


def calls() -> Iterator[tuple[Call, int]]:
    """Yield calls with everything that a mutant may break, and the index of their strategy."""
    for mode in ("RNN_TANH", "GRU"):
        for ragged in ("dense", "resets", "lengths"):
            if mode == "GRU" or ragged != "resets":
                call: Any = Call(mode, {"num_layers": 2, "bidirectional": True}, ragged, True)
                if ragged == "lengths":  # may contain anything beyond
                    steps = torch.arange(call.x.shape[0])[:, None]
                    call.x[steps >= call.ragged[0]] = float("nan")
                yield call, 2
    # Sums that a cluster shares; more units than `rows` serves, with W_ih in the loop.
    for mode, sizes in (("RNN_TANH", (400, 3, 5, 8)), ("GRU", (9, 3, 5, 70))):
        call = resized(Call(mode, {"bidirectional": mode == "GRU"}, "dense", True), sizes)
        call.x, call.weights = call.x.float(), [w.float() for w in call.weights]
        call.h0 = call.h0.float()
        yield call, 0
    call = Call("GRU", {"num_layers": 3}, "lengths", with_hx=True)
    call.x, call.weights = call.x.float(), [w.float() for w in call.weights]
    call.h0 = call.h0.float()
    yield call, 0


def first_difference() -> str | None:
    """Run the calls with the library that is loaded; return what differs, or None."""
    emulated, on_cpu = torch.ops.fastrnn_emulated, torch.ops.fastrnn
    for call, strategy in calls():
        emulated.reset(strategy, 7)
        results = on_cpu.layer(*call.forward())
        given = call.backward(results, EVERYTHING)
        actual = [*emulated.layer(*call.forward()), *emulated.layer_backward(*given)]
        expected = [*results, *on_cpu.layer_backward(*given)]
        atol = 1e-12 if call.x.dtype == torch.float64 else 1e-3
        for index, (got, wanted) in enumerate(zip(actual, expected, strict=True)):
            if not torch.allclose(got, wanted, rtol=0, atol=atol):
                return f"result {index} of a call of cell {call.mode}"
    return None


def run(library: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", __name__, str(library)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(
            m, id=m.name, marks=pytest.mark.slow if m.name in SLOW else pytest.mark.exhaustive
        )
        for m in MUTANTS
    ],
)
def test_detected(mutant: Mutant) -> None:
    file = f"cuda/{mutant.file}"
    text = (SOURCES / file).read_text()
    assert text.count(mutant.old) == 1, mutant.old
    changed = {file: text.replace(mutant.old, mutant.new)}
    done = run(build_operators(INSTANCES, changed))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "differs" in done.stdout or "emulat" in done.stderr, done.stderr


@pytest.mark.exhaustive
def test_correct() -> None:
    done = run(build_operators(INSTANCES))
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    torch.manual_seed(0)
    load(Path(sys.argv[1]))
    difference = first_difference()
    if difference is not None:
        sys.exit(print(f"differs: {difference}") or 1)
