"""Run the CUDA kernels of LSTM, GRU and leaky cells in the emulator, as test_emulated.py does."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fastrnn.testing import Problem
from tests.emulators.cuda import emulated
from tests.emulators.cuda.emulated import Tiling, tiling_for
from tests.emulators.cuda.server import EmulationError
from tests.utils.checks import check_recurrence, check_recurrence_backward
from tests.utils.strategies import problems

from .test_emulated import ELEMENTS, KERNELS, options_of_run

CELLS = ("LSTM", "GRU", "LEAKY", "LEAKY_PRE")

Kernel = tuple[str, ...]  # names

#: Kernels that are compiled and run by default: each strategy, with the cells of several gates.
QUICK = {
    ("cluster", "bfloat16", "LSTM"),
    ("grid", "float32", "GRU"),
    ("step", "bfloat16", "GRU"),
}
#: With those, each cell, and each way to multiply.
SLOW = {
    ("cluster", "tf32", "LEAKY"),
    ("step", "float64", "LEAKY_PRE"),
}

#: Messages of launchers that reject a random tiling.
TOO_LARGE = ("does not support this tiling", "has no such instance", "too much shared memory")


def marked(kernels: Iterable[Kernel], quick: Set[Kernel], slow: Set[Kernel]) -> list[Any]:
    """Return kernels as parameters: those neither in `quick` nor in `slow` are exhaustive."""
    found = []
    for kernel in kernels:
        marks: Any = ()
        if kernel not in quick:
            marks = pytest.mark.slow if kernel in slow else pytest.mark.exhaustive
        found.append(pytest.param(*kernel, marks=marks, id="-".join(kernel)))
    return found


def kernels() -> list[Any]:
    every = [(strategy, element, kind) for strategy, element in KERNELS for kind in CELLS]
    return marked(every, QUICK, SLOW)


@st.composite
def tilings(draw: st.DrawFn, strategy: str, problem: Problem, backward: bool) -> Tiling:
    """Draw a tiling of a problem; the kernel may have no instance for it."""
    units, gates = -(-problem.hidden // 16), problem.cell.gates
    rows = draw(st.sampled_from([1, 3, 7, 8, 9, 16, 20] if backward else [1, 3, 7, 8, 9, 16]))
    n_tiles = 1 if rows <= 8 else 2 if rows <= 16 else 4
    options: dict[str, Any] = {"gates": gates if backward else 1, "rows": rows}
    options["resident"] = draw(st.sampled_from([4, 8] if backward or gates == 1 else [4]))
    if strategy == "cluster":
        blocks = draw(st.sampled_from([n for n in (1, 2, 4, 8, 16) if n == 1 or n <= units]))
        m_tiles = -(-units // blocks)
        options["blocks"] = blocks
        options["splits"] = draw(
            st.sampled_from([n for n in (1, 2, 4) if n == 1 or n * m_tiles <= 8])
        )
    else:
        m_tiles = options["m_tiles"] = draw(st.sampled_from([1, 2]))
        options["splits"] = draw(st.sampled_from([n for n in (2, 4, 8) if n >= n_tiles * m_tiles]))
        options["at_once"] = draw(st.integers(1, 3))
    return tiling_for(strategy, problem.hidden, problem.dtype, **options)


@st.composite
def runs(
    draw: st.DrawFn, strategy: str, element: str, kind: str, backward: bool
) -> tuple[Problem, dict[str, Any]]:
    """Draw a problem and the options of its run."""
    dtype, _ = ELEMENTS[element]
    problem = draw(problems(dtype=dtype, kind=kind, steps=draw(st.integers(1, 7))))
    options = options_of_run(draw, strategy, element)
    if strategy != "step":
        options["tiling"] = draw(tilings(strategy, problem, backward))
    if strategy == "grid":
        options["processors"] = 3 * options["tiling"].blocks
    if not backward and problem.layout != "packed":
        options["in_place"] = draw(st.booleans())
    return problem, options


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("strategy", "element", "kind"), kernels())
def test_random_problems(
    strategy: str, element: str, kind: str, backward: bool, request: pytest.FixtureRequest
) -> None:
    check = check_recurrence_backward if backward else check_recurrence
    is_exhaustive = request.node.get_closest_marker("exhaustive") is not None

    @settings(max_examples=40 if is_exhaustive else 12, deadline=None)
    @given(runs(strategy, element, kind, backward))
    def random(run: tuple[Problem, dict[str, Any]]) -> None:
        problem, options = run
        try:
            check(emulated, problem, mode=ELEMENTS[element][1], **options)
        except EmulationError as error:
            if not any(message in str(error) for message in TOO_LARGE):
                raise
            reject()

    random()


@pytest.mark.parametrize("kind", ["LSTM", pytest.param("GRU", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    "strategy",
    [
        "cluster",
        pytest.param("grid", marks=pytest.mark.slow),
        pytest.param("step", marks=pytest.mark.exhaustive),
    ],
)
def test_inference_saves_nothing(strategy: str, kind: str) -> None:
    """Without gates to save the results are the same, bit for bit."""
    dtype, _ = ELEMENTS["bfloat16"]
    problem = Problem(5, 3, 2, 20, "lengths", dtype=dtype, kind=kind, resets=True)
    pre, arguments = problem.inputs()
    options: dict[str, Any] = {"strategy": strategy}
    if strategy != "step":
        options["tiling"] = tiling_for(strategy, problem.hidden, dtype, splits=2)
    saved = emulated.recurrence(pre, arguments, save=True, **options)
    results = emulated.recurrence(pre, arguments, save=False, **options)
    assert results.gates is results.inner is None
    for name in ("out", "h_n", "c_n"):
        wanted, got = getattr(saved, name), getattr(results, name)
        assert (wanted is None) == (got is None)
        assert wanted is None or wanted.equal(got)
