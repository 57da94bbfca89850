"""Run the CUDA kernels as the operator of a layer does: two directions, biases, no zero tensors.

A layer has a weight of its own for each direction, its states are [D, B, heads · H], and its biases
are added to pre in the kernels. Tensors that are zero may be missing. The results must be those of
the recurrence, bit for bit.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from torch import Tensor

from fastrnn.ops.arguments import Arguments, Outputs, State
from fastrnn.ops.cells.base import Step
from fastrnn.testing import Problem
from tests.emulators.cuda import emulated
from tests.emulators.cuda.server import EmulationError

from .test_emulated import KERNELS
from .test_emulated_cells import CELLS, TOO_LARGE, marked, runs

#: Kernels that other tests compile too, by default or with the slow tests.
QUICK = {("cluster", "bfloat16", "LSTM")}
SLOW = {
    ("cluster", "bfloat16", "RNN"),
    ("grid", "float32", "GRU"),
    ("step", "bfloat16", "GRU"),
    ("step", "float64", "RNN"),
}


def kernels() -> list[Any]:
    kinds = ("RNN", *CELLS)
    every = [(strategy, element, kind) for strategy, element in KERNELS for kind in kinds]
    return marked(every, QUICK, SLOW)


def in_directions(state: Tensor, heads: int) -> Tensor:
    """Return a state [B, G, H] as that of a layer, [D, B, heads, H]."""
    batch, groups, hidden = state.shape
    return state.reshape(batch, groups // heads, heads, hidden).transpose(0, 1).contiguous()


def of_directions(state: Tensor, heads: int) -> Tensor:
    """Return a result that was written as the state of a layer, as [B, G, H]."""
    batch, groups, hidden = state.shape
    by_direction = state.reshape(groups // heads, batch, heads, hidden)
    return by_direction.transpose(0, 1).reshape(batch, groups, hidden)


def replaced_inputs(arguments: Arguments, heads: int) -> dict[str, Tensor | None]:
    """Return the inputs whose form differs in a layer."""
    replaced: dict[str, Tensor | None] = {}
    for name in ("h0", "c0"):
        state = getattr(arguments, name)
        replaced[name] = state if state is None else in_directions(state, heads)
    for name in ("weight_hh", "unit_param"):
        tensor = getattr(arguments, name)
        if tensor is not None:
            replaced[name], replaced[f"{name}_reverse"] = tensor[:heads], tensor[heads:]
    return replaced


def random_biases(problem: Problem, heads: int) -> dict[str, Tensor]:
    """Return biases whose sum with pre is exact: multiples of 1/8."""
    generator = torch.Generator().manual_seed(problem.seed)
    size = problem.cell.gates * heads * problem.hidden
    names = ("bias_ih", "bias_ih_reverse", "bias_hh", "bias_hh_reverse")
    return {
        name: torch.randint(-8, 9, (size,), generator=generator).to(problem.dtype) / 8
        for name in names
    }


def sum_of_biases(biases: dict[str, Tensor], problem: Problem, heads: int) -> Tensor:
    """Return what the biases add to a row of pre, [D · heads, K · H]."""
    gates, sums = problem.cell.gates, []
    for suffix in ("", "_reverse"):
        of_ih, of_hh = biases[f"bias_ih{suffix}"], biases[f"bias_hh{suffix}"].clone()
        if problem.kind == "GRU":  # b_hn is the unit_param
            of_hh.reshape(gates, -1)[2] = 0
        sums.append((of_ih + of_hh).reshape(gates, heads, -1).transpose(0, 1).flatten(1))
    return torch.cat(sums)


def run_equally(
    function: Any, given: tuple[Any, ...], options: dict[str, Any], replaced: Any, heads: int
) -> tuple[Any, Any]:
    """Run both forms of a call."""
    try:
        return function(*given, **options), function(
            *given, **options, replaced=replaced, heads=heads
        )
    except EmulationError as error:
        if not any(message in str(error) for message in TOO_LARGE):
            raise
        reject()


def check_equal(actual: Any, expected: Any, states: tuple[str, ...], heads: int) -> None:
    for name, wanted in expected._asdict().items():
        got = getattr(actual, name)
        if wanted is not None:
            got = of_directions(got, heads) if name in states else got
            torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


def layer_of(problem: Problem) -> tuple[Problem, int]:
    """Return a problem with the groups of a layer in two directions, and its heads."""
    heads = 1 if problem.cell.gates > 1 else problem.groups
    fields = {**problem.__dict__, "groups": 2 * heads, "reverse_from": heads, "resets": False}
    return Problem(**fields), heads


@pytest.mark.parametrize(("strategy", "element", "kind"), kernels())
def test_directions_and_biases(strategy: str, element: str, kind: str) -> None:
    @settings(max_examples=6, deadline=None)
    @given(runs(strategy, element, kind, backward=False))
    def random(run: tuple[Problem, dict[str, Any]]) -> None:
        problem, options = run
        options.pop("in_place", None)
        problem, heads = layer_of(problem)
        pre, arguments = problem.inputs()
        pre = (pre * 8).round() / 8
        biases = random_biases(problem, heads)
        total = pre + sum_of_biases(biases, problem, heads)
        replaced = {**replaced_inputs(arguments, heads), **biases, "pre": pre}
        given = total, arguments, True
        expected, actual = run_equally(emulated.recurrence, given, options, replaced, heads)
        check_equal(actual, expected, ("h_n", "c_n"), heads)

    random()


@pytest.mark.parametrize(("strategy", "element", "kind"), kernels())
def test_gradients_of_directions(strategy: str, element: str, kind: str) -> None:
    @settings(max_examples=6, deadline=None)
    @given(runs(strategy, element, kind, backward=True))
    def random(run: tuple[Problem, dict[str, Any]]) -> None:
        problem, options = run
        problem, heads = layer_of(problem)
        grads, saved, arguments = of_random_gradients(problem)
        replaced = {
            **replaced_inputs(arguments, heads),
            **{
                f"grad_{name}": in_directions(getattr(grads, name), heads)
                for name in ("h_n", "c_n")
                if getattr(grads, name) is not None
            },
        }
        given = grads, saved, arguments
        expected, actual = run_equally(
            emulated.recurrence_backward, given, options, replaced, heads
        )
        check_equal(actual, expected, ("h0", "c0"), heads)

    random()


def of_random_gradients(problem: Problem) -> tuple[Outputs, Step, Arguments]:
    """Return the inputs of a backward, with the results of some forward."""
    pre, arguments = problem.inputs()
    out, h0 = pre[..., : problem.hidden].tanh(), arguments.h0
    gates = inner = None
    if problem.cell.saves:
        gates = pre.sigmoid()
        inner = out.sin() if problem.cell.has_inner else None
    c_n = torch.randn_like(h0) if problem.cell.has_c else None
    grads = Outputs(torch.randn_like(out), torch.randn_like(h0), c_n)
    return grads, Step(State(out), gates, inner), arguments


@pytest.mark.parametrize("missing", ["states", "grad_out"])
@pytest.mark.parametrize(("strategy", "element", "kind"), kernels())
def test_missing_tensors_count_as_zeros(
    strategy: str, element: str, kind: str, missing: str
) -> None:
    @settings(max_examples=4, deadline=None)
    @given(runs(strategy, element, kind, backward=missing == "grad_out"))
    def random(run: tuple[Problem, dict[str, Any]]) -> None:
        problem, options = run
        options.pop("in_place", None)
        heads = problem.groups
        grads, saved, arguments = of_random_gradients(problem)
        zeros = torch.zeros_like(arguments.h0)
        arguments = arguments._replace(h0=zeros, c0=zeros if problem.cell.has_c else None)
        if missing == "states":
            pre, _ = problem.inputs()
            call, given = emulated.recurrence, (pre, arguments, True)
            replaced = {"h0": None, "c0": None}
        else:
            c_n = zeros if problem.cell.has_c else None
            grads = Outputs(torch.zeros_like(grads.out), zeros, c_n)
            call, given = emulated.recurrence_backward, (grads, saved, arguments)
            replaced = dict.fromkeys(("grad_out", "grad_h_n", "grad_c_n", "h0", "c0"))
        expected, actual = run_equally(call, given, options, replaced, heads)
        check_equal(actual, expected, (), heads)

    random()
