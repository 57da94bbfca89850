"""Run the layers of a stack in one launch of the emulated cluster kernel.

The results must be those of one launch for each layer, bit for bit. test_emulated_projection.py
checks these against the reference.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fastrnn.ops.arguments import Gradients, Outputs, State
from fastrnn.ops.cells.base import Step
from fastrnn.testing import Problem
from tests.emulators.cuda import emulated
from tests.emulators.cuda.build import SOURCES
from tests.emulators.cuda.emulated import Emulated, tiling_for
from tests.emulators.cuda.server import EmulationError
from tests.utils.strategies import problems

from .mutation import keep_lines
from .test_emulated import ELEMENTS
from .test_emulated_cells import TOO_LARGE
from .test_emulated_layers import check_equal, of_random_gradients
from .test_emulated_projection import Projection, kernels

SOURCE = "cluster_projected_float32"


def layers_of(first: Problem, count: int, width: int) -> list[Any]:
    """Return what `emulated.stack` takes: a projection of `width` inputs, then of a layer's."""
    layers = []
    for l in range(count):  # noqa: E741
        problem = dataclasses.replace(first, seed=first.seed + l)
        projection = Projection(problem, width if l == 0 else first.hidden)
        x, weight_ih, biases = (t.to(first.dtype) for t in projection.tensors_of_layer())
        _, arguments = problem.inputs()
        if l == 0:
            ragged = arguments.lengths, arguments.offsets, arguments.resets
        lengths, offsets, resets = ragged
        arguments = arguments._replace(lengths=lengths, offsets=offsets, resets=resets)
        of_projection = {"weight_ih": weight_ih[0], "bias_ih": biases[0]}
        layers.append((arguments, {"input": x, **of_projection} if l == 0 else of_projection))
    return layers


def one_by_one(pre: torch.Tensor, layers: list[Any], options: dict[str, Any]) -> list[Outputs]:
    tiling = dataclasses.replace(options["tiling"], layers=1)
    found: list[Outputs] = []
    for arguments, more in layers:
        replaced = {"pre": None, **more}
        if found:
            replaced["input"] = found[-1].out.squeeze(-2)
        one = {**options, "tiling": tiling, "replaced": replaced}
        found.append(emulated.recurrence(pre, arguments, save=True, strategy="cluster", **one))
    return found


@st.composite
def stacks(
    draw: st.DrawFn, element: str, kind: str, backward: bool = False
) -> tuple[Problem, int, dict[str, Any]]:
    dtype, _ = ELEMENTS[element]
    problem = draw(
        problems(
            dtype=dtype,
            kind=kind,
            steps=draw(st.integers(1, 14)),
            hidden=draw(st.sampled_from([1, 3, 8, 15, 16, 17, 33, 48])),
            groups=1,
            reverse_from=draw(st.integers(0, 1)),
        )
    )
    units = -(-problem.hidden // 16)
    layers = draw(st.sampled_from([2, 3, 4, 8]))
    tiling = tiling_for(
        *("cluster", problem.hidden, dtype),
        gates=problem.cell.gates if backward else 1,
        blocks=draw(st.sampled_from([n for n in (1, 2) if n <= units and n * layers <= 8])),
        splits=draw(st.sampled_from([1, 2])),
        resident=draw(st.sampled_from([4, 8])),
        rows=draw(st.sampled_from([1, 3, 7, 8])),
    )
    options = {
        "tf32": element == "tf32",
        "tiling": dataclasses.replace(tiling, layers=layers),
        "seed": draw(st.integers(0, 2**31)),
        "misaligned": draw(st.booleans()),
    }
    return problem, draw(st.sampled_from([1, 5, 8, 31, 64])), options


@pytest.mark.parametrize(("element", "kind"), kernels())
def test_equals_one_launch_for_each_layer(element: str, kind: str) -> None:
    @settings(max_examples=15, deadline=None)
    @given(stacks(element, kind))
    def random(run: tuple[Problem, int, dict[str, Any]]) -> None:
        problem, width, options = run
        pre, _ = problem.inputs()
        layers = layers_of(problem, options["tiling"].layers, width)
        try:
            found = emulated.stack(pre, layers, save=True, strategy="cluster", **options)
        except EmulationError as error:
            if not any(message in str(error) for message in TOO_LARGE):
                raise
            reject()
        for actual, expected in zip(found, one_by_one(pre, layers, options), strict=True):
            check_equal(actual, expected, (), heads=1)

    random()


def of_backward(first: Problem, count: int) -> list[Any]:
    """Return what `emulated.stack_backward` takes, with the results of some forward.

    Every column of a W_ih has one value that is not 0: 1 or -1. So the gradients that a layer gives
    to the one below are exact.
    """
    layers: list[Any] = []
    _, given, arguments = of_random_gradients(first)
    for l in range(count):  # noqa: E741
        generator = torch.Generator().manual_seed(first.seed + l)
        _, own = dataclasses.replace(first, seed=first.seed + l).inputs()
        own = own._replace(lengths=arguments.lengths, offsets=arguments.offsets)
        own = own._replace(resets=arguments.resets)
        saved = Step(
            State(given.state.h.roll(l)),
            given.gates if given.gates is None else given.gates.roll(l),
            given.inner if given.inner is None else given.inner.roll(l),
        )
        random = [
            torch.randn(like.shape, generator=generator).to(first.dtype)
            for like in (saved.state.h, own.h0, own.h0)
        ]
        grads = Outputs(
            random[0] if l == 0 else None, random[1], random[2] if first.cell.has_c else None
        )
        rows = first.cell.gates * first.hidden
        places = torch.randint(0, rows, (1, first.hidden), generator=generator)
        signs = 2.0 * torch.randint(0, 2, (1, first.hidden), generator=generator) - 1
        weight_ih = torch.zeros(rows, first.hidden).scatter_(0, places, signs)
        more = {"weight_ih_above": weight_ih.to(first.dtype)} if l > 0 else {}
        layers.append((grads, saved, own, more))
    return layers


def backward_one_by_one(layers: list[Any], options: dict[str, Any]) -> list[Gradients]:
    tiling = dataclasses.replace(options["tiling"], layers=1)
    found: list[Gradients] = []
    for grads, saved, arguments, more in layers:
        if found:
            above = found[-1].pre.double()
            grads = grads._replace(
                out=(above @ more["weight_ih_above"].double()).to(saved.state.h.dtype)
            )
        one = {**options, "tiling": tiling, "strategy": "cluster"}
        found.append(emulated.recurrence_backward(grads, saved, arguments, **one))
    return found


@pytest.mark.parametrize(("element", "kind"), kernels())
def test_gradients_equal_one_launch_for_each_layer(element: str, kind: str) -> None:
    """Exactly in half precision. Other elements round the gradients that they multiply.

    The kernel of nn.RNN's cells adds up in another order, so a rounding may differ.
    """
    rtol = {"float32": 1e-5, "tf32": 5e-3}.get(element, 0)
    if kind == "RNN":
        rtol = max(rtol, torch.finfo(ELEMENTS[element][0]).eps)

    @settings(max_examples=15, deadline=None)
    @given(stacks(element, kind, backward=True))
    def random(run: tuple[Problem, int, dict[str, Any]]) -> None:
        problem, _, options = run
        layers = of_backward(problem, options["tiling"].layers)
        try:
            found = emulated.stack_backward(layers, strategy="cluster", **options)
        except EmulationError as error:
            if not any(message in str(error) for message in TOO_LARGE):
                raise
            reject()
        for actual, expected in zip(found, backward_one_by_one(layers, options), strict=True):
            for got, wanted in zip(actual, expected, strict=True):
                if wanted is not None and wanted.numel() > 0:
                    atol = rtol * max(1.0, float(wanted.abs().max()))
                    torch.testing.assert_close(got, wanted, rtol=0, atol=atol, equal_nan=True)

    random()


#: Bugs of cluster_stack.h: what is replaced, by what.
MUTANTS = {
    "rows are read before they have arrived": (
        "ptx::mbarrier_wait(filled(s), unsigned(s) / STAGES % 2);",
        "",
    ),
    "rows are overwritten before they are read": (
        "ptx::mbarrier_wait(freed(s), unsigned(s - STAGES) / STAGES % 2);",
        "",
    ),
    "one tile frees the rows for all": (
        "ptx::mbarrier_arrive_expect_tx(freed(s), warp.tiles_of_units * 8);",
        "ptx::mbarrier_arrive_expect_tx(freed(s), 8);",
    ),
    "a lane misses a phase": ("    __syncwarp();\n", ""),
    "the last steps are freed, too": ("if (s + STAGES >= warp.steps || ", "if ("),
    "only the first block of a layer frees the rows": (
        "warp.lane_index >= warp.blocks) return;",
        "warp.lane_index >= 1) return;",
    ),
    "units beyond the last are not zero": ("rows[i] = {0, 0};", "rows[i] = {~0u, ~0u};"),
    "rows go to the wrong layer": (
        "first = (warp.layer + 1) * warp.blocks;",
        "first = warp.layer * warp.blocks;",
    ),
}


def first_failure(changed: dict[str, str]) -> Exception | None:
    """Return the first failure of a stack with these texts of files, in twenty schedules."""
    source = f"cuda/instances/{SOURCE}.cu"
    text = (SOURCES / source).read_text()
    texts = {source: keep_lines(text, r"^template .*\n", ("AnyElman",))}
    with contextlib.closing(Emulated({**texts, **changed})) as module:
        for seed in range(20):
            problem = Problem(
                *(14, 3, 1, 33), dtype=torch.float32, seed=seed, kind="RNN", layout="dense"
            )
            tiling = tiling_for("cluster", 33, torch.float32, blocks=2, resident=8)
            options = {"tiling": dataclasses.replace(tiling, layers=3), "seed": seed}
            pre, _ = problem.inputs()
            layers = layers_of(problem, 3, width=5)
            try:
                found = module.stack(pre, layers, save=True, strategy="cluster", **options)
                for actual, expected in zip(found, one_by_one(pre, layers, options), strict=True):
                    check_equal(actual, expected, (), heads=1)
            except (AssertionError, EmulationError) as failure:
                return failure
    return None


@pytest.mark.exhaustive
def test_correct_in_twenty_schedules() -> None:
    assert first_failure({}) is None


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.exhaustive
def test_mutants_are_detected(name: str) -> None:
    file, (old, new) = "cuda/cluster_stack.h", MUTANTS[name]
    text = (SOURCES / file).read_text()
    assert text.count(old) == 1, old
    assert first_failure({file: text.replace(old, new)}) is not None
