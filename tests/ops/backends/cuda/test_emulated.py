"""Run the CUDA kernels in the emulator, and compare them with the float64 reference.

Every kernel runs forward and backward in every dtype on random problems, with random tilings and
schedules. The same seed gives the same run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrnn.testing import Problem
from tests.emulators.cuda import emulated
from tests.emulators.cuda.emulated import Tiling, tiling_for
from tests.utils.checks import CHECKS, check_forward
from tests.utils.strategies import problems

#: The dtype of a kernel, and the mode that `fastrnn.testing` takes.
ELEMENTS = {
    "bfloat16": (torch.bfloat16, "half"),
    "float16": (torch.float16, "half"),
    "tf32": (torch.float32, "tf32"),
    "float32": (torch.float32, "float32"),
    "float64": (torch.float64, None),
}
KERNELS = [
    (strategy, element)
    for strategy in ("cluster", "grid", "step")
    for element in ELEMENTS
    if strategy == "step" or element != "float64"
]


def kernels(exclude: str | None = None, resets: bool = False) -> list[Any]:
    """Return KERNELS as parameters, except those of the dtype `exclude`.

    float16 and tf32 are exhaustive: they differ from bfloat16 and float32 only in conversions and
    products, and take as long to compile. Resets are handled the same in all dtypes, so with
    `resets` only bfloat16 is not exhaustive.
    """
    marks: dict[str, Any] = dict.fromkeys(ELEMENTS, pytest.mark.exhaustive if resets else ())
    marks |= dict.fromkeys(["float16", "tf32"], pytest.mark.exhaustive)
    marks["bfloat16"] = ()
    return [
        pytest.param(strategy, element, marks=marks[element])
        for strategy, element in KERNELS
        if element != exclude
    ]


@st.composite
def tilings(draw: st.DrawFn, strategy: str, element: str, hidden: int) -> Tiling:
    """Draw a tiling of `hidden` units that the kernel has an instance for."""
    dtype, mode = ELEMENTS[element]
    units = -(-hidden // 16)
    rows = draw(st.sampled_from([1, 3, 7, 8, 8, 9, 16, 20, 32]))
    n_tiles = 1 if rows <= 8 else 2 if rows <= 16 else 4
    if strategy == "cluster":
        blocks = draw(st.sampled_from([n for n in (1, 2, 4, 8, 16) if n == 1 or n <= units]))
        m_tiles = -(-units // blocks)
        resident = draw(st.sampled_from([4, 8, 16] if mode == "half" else [4, 8]))
        most = 8 if n_tiles == 4 else 12  # warps that every instance has room for
        room = 384 // (resident * n_tiles)  # splits whose state fits into shared memory
        splits = draw(
            st.sampled_from(
                [n for n in (1, 2, 4, 8) if n == 1 or (n * m_tiles <= most and n <= room)]
            )
        )
        return tiling_for(
            strategy, hidden, dtype, blocks=blocks, splits=splits, resident=resident, rows=rows
        )
    m_tiles = draw(st.sampled_from([1, 2]))
    resident = draw(st.sampled_from([4, 8]))
    splits = draw(st.sampled_from([n for n in (1, 2, 4, 8) if n >= n_tiles * m_tiles]))
    at_once = draw(st.integers(1, 3))
    return tiling_for(
        *(strategy, hidden, dtype),
        m_tiles=m_tiles,
        splits=splits,
        resident=resident,
        rows=rows,
        at_once=at_once,
    )


def options_of_run(draw: st.DrawFn, strategy: str, element: str) -> dict[str, Any]:
    """Draw the options of a run, except its tiling."""
    return {
        "strategy": strategy,
        "tf32": element == "tf32",
        "seed": draw(st.integers(0, 2**31)),
        "misaligned": draw(st.booleans()),
    }


@st.composite
def runs(
    draw: st.DrawFn, strategy: str, element: str, **fixed: Any
) -> tuple[Problem, dict[str, Any]]:
    """Draw a problem and the options of its run; `fixed` sets properties of the problem."""
    dtype, _ = ELEMENTS[element]
    problem = draw(problems(dtype=dtype, steps=draw(st.integers(0, 7)), **fixed))
    if strategy == "cluster" and problem.hidden > 48 and problem.batch > 8:
        problem = draw(
            problems(dtype=dtype, hidden=draw(st.integers(1, 48)), **fixed)
        )  # fewer threads
    options = options_of_run(draw, strategy, element)
    if strategy != "step":
        options["tiling"] = draw(tilings(strategy, element, problem.hidden))
    if strategy == "grid":
        options["processors"] = 3 * options["tiling"].blocks
    return problem, options


def check(which: Any, run: tuple[Problem, dict[str, Any]], element: str) -> None:
    problem, options = run
    dense = problem.layout != "packed" and problem.seed % 2 == 0
    if which is check_forward and dense and options["strategy"] != "step":
        options = {**options, "in_place": True}
    if problem.steps == 0:
        check_no_steps(which, problem, options)
    else:
        which(emulated, problem, mode=ELEMENTS[element][1], **options)


def check_no_steps(which: Any, problem: Problem, options: dict[str, Any]) -> None:
    """Check that a run without steps leaves the state unchanged; the reference needs steps."""
    pre, weight_hh, h0, ragged = problem.tensors()
    if which is check_forward:
        _, h_n = emulated.forward(pre, weight_hh, h0, ragged, *problem.options, **options)
        assert h_n.equal(h0)
    else:
        grad = torch.randn_like(h0)
        inputs = pre, grad, pre, weight_hh, h0
        _, grad_h0 = emulated.backward(*inputs, ragged, *problem.options, **options)
        assert grad_h0.equal(grad)


@pytest.mark.parametrize("which", CHECKS)
@pytest.mark.parametrize(("strategy", "element"), kernels())
def test_random_problems(which: Any, strategy: str, element: str) -> None:
    fixed = {} if element == "bfloat16" else {"resets": False}

    @settings(max_examples=12, deadline=None)
    @given(runs(strategy, element, **fixed))
    def random(run: tuple[Problem, dict[str, Any]]) -> None:
        check(which, run, element)

    random()


@pytest.mark.exhaustive
@pytest.mark.parametrize("which", CHECKS)
@pytest.mark.parametrize(("strategy", "element"), KERNELS)
def test_many_random_problems(which: Any, strategy: str, element: str) -> None:
    @settings(max_examples=25, deadline=None)
    @given(runs(strategy, element))
    def random(run: tuple[Problem, dict[str, Any]]) -> None:
        check(which, run, element)

    random()
