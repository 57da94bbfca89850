"""Run the kernels of `rows` in the emulator, as test_emulated_cells.py does the others."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrnn.testing import Problem
from tests.emulators.cuda import emulated
from tests.emulators.cuda.build import SOURCES
from tests.emulators.cuda.emulated import Emulated
from tests.emulators.cuda.server import EmulationError
from tests.utils.checks import check_recurrence, check_recurrence_backward
from tests.utils.strategies import problems

from .mutation import keep_lines
from .test_emulated import ELEMENTS
from .test_emulated_cells import CELLS, marked
from .test_emulated_layers import (
    check_equal,
    in_directions,
    layer_of,
    of_random_gradients,
    replaced_inputs,
    run_equally,
)
from .test_emulated_projection import Projection

KINDS = ("RNN", *CELLS)
#: Sizes around those of an instance, and of a warp.
HIDDEN = (1, 3, 8, 15, 16, 17, 31, 32, 33, 48, 50, 63, 64)
LARGE = (65, 100, 127, 128)  # of cells with one gate


def kernels() -> list[Any]:
    elements = ("bfloat16", "float16", "tf32", "float32")
    quick = {("float32", kind) for kind in ("RNN", "LSTM", "GRU")}
    slow = {("bfloat16", kind) for kind in KINDS}
    return marked([(element, kind) for element in elements for kind in KINDS], quick, slow)


@st.composite
def runs(draw: st.DrawFn, element: str, kind: str, **sizes: int) -> tuple[Problem, dict[str, Any]]:
    hidden = HIDDEN if kind in ("LSTM", "GRU") else HIDDEN + LARGE
    problem = draw(
        problems(
            dtype=ELEMENTS[element][0],
            kind=kind,
            steps=draw(st.integers(1, 14)),
            hidden=draw(st.sampled_from(hidden)),
            **sizes,
        )
    )
    return problem, {
        "strategy": "rows",
        "tf32": element == "tf32",
        "seed": draw(st.integers(0, 2**31)),
        "misaligned": draw(st.booleans()),
    }


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("element", "kind"), kernels())
def test_random_problems(element: str, kind: str, backward: bool) -> None:
    check = check_recurrence_backward if backward else check_recurrence

    @settings(max_examples=8, deadline=None)
    @given(runs(element, kind))
    def random(run: tuple[Problem, dict[str, Any]]) -> None:
        problem, options = run
        check(emulated, problem, mode=ELEMENTS[element][1], **options)

    random()


@pytest.mark.slow
@pytest.mark.parametrize(("element", "kind"), kernels())
def test_input_projection(element: str, kind: str) -> None:
    @settings(max_examples=6, deadline=None)
    @given(st.data())
    def random(data: st.DataObject) -> None:
        heads = data.draw(st.integers(1, 2)) if kind not in ("LSTM", "GRU") else 1
        groups = heads * data.draw(st.integers(1, 2))
        problem, options = data.draw(runs(element, kind, groups=groups, reverse_from=heads))
        most = 8 * problem.hidden  # a thread copies one chunk
        width = data.draw(st.sampled_from([1, 2, 3, 8, 15, 16, 17, 50, 64]).filter(most.__ge__))
        projection = Projection(problem, width)
        check_recurrence(projection, projection, mode=ELEMENTS[element][1], **options)

    random()


@pytest.mark.parametrize(("element", "kind"), kernels())
def test_gradients_of_directions(element: str, kind: str) -> None:
    """The form of a layer gives the same results, bit for bit."""

    @settings(max_examples=6, deadline=None)
    @given(runs(element, kind))
    def random(run: tuple[Problem, dict[str, Any]]) -> None:
        problem, options = run
        problem, heads = layer_of(problem)
        grads, saved, arguments = of_random_gradients(problem)
        replaced = replaced_inputs(arguments, heads)
        for name in ("h_n", "c_n"):
            state = getattr(grads, name)
            if state is not None:
                replaced[f"grad_{name}"] = in_directions(state, heads)
        given_ = grads, saved, arguments
        expected, actual = run_equally(
            emulated.recurrence_backward, given_, options, replaced, heads
        )
        check_equal(actual, expected, ("h0", "c0"), heads)

    random()


#: Bugs of rows.h and rows_block.h: what is replaced, by what.
MUTANTS = {
    "a step does not wait for the state": (
        "    input.wait();\n    __syncthreads();\n  }\n  ptx::cp_async_wait<0>();\n"
        "  if (!block.writes) return;\n  block.store(p.h_n",
        "    input.wait();\n  }\n  ptx::cp_async_wait<0>();\n"
        "  if (!block.writes) return;\n  block.store(p.h_n",
    ),
    "dz is overwritten before it is read": (
        "s % 2 * gates * layout.padded_units",
        "0 * gates * layout.padded_units",
    ),
    "inputs are read before they have arrived": (
        "ptx::cp_async_wait<rows_stages - 2>();",
        "ptx::cp_async_wait<rows_stages>();",
    ),
    "inputs are read from the wrong place": (
        "s % rows_stages * layout.chunks",
        "s % (rows_stages - 1) * layout.chunks",
    ),
    "only two of the lanes add up": ("i < rows_lanes; i *= 2", "i < 2; i *= 2"),
    "the state beyond H is not zero": (
        "block.state(0, 1)[i] = 0;",
        "block.state(0, 1)[i] = NAN;",
    ),
    "a reset in backward keeps the gradient": ("      dh = 0;\n", ""),
    "c before the last step is not c0": ("if (reset || s + 1 == steps) {", "if (reset) {"),
}


def failures(changed: dict[str, str]) -> Iterator[Exception]:
    """Yield the failures of an LSTM with these texts of files."""
    source = "cuda/instances/rows_float32.cu"
    texts = {source: keep_lines((SOURCES / source).read_text(), r"^template .*\n", ("<Lstm>",))}
    with contextlib.closing(Emulated({**texts, **changed})) as module:
        for seed, layout in itertools.product(range(6), ("dense", "lengths", "packed")):
            problem = Problem(
                *(12, 3, 1, 33, layout), dtype=torch.float32, seed=seed, resets=True, kind="LSTM"
            )
            for check in (check_recurrence, check_recurrence_backward):
                try:
                    check(module, problem, mode="float32", strategy="rows", seed=seed)
                except (AssertionError, EmulationError) as failure:
                    yield failure


@pytest.mark.exhaustive
def test_correct_in_many_schedules() -> None:
    assert not list(failures({}))


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.exhaustive
def test_mutants_are_detected(name: str) -> None:
    old, new = MUTANTS[name]
    files = "cuda/rows.h", "cuda/rows_block.h"
    texts = {file: (SOURCES / file).read_text() for file in files}
    (file,) = (file for file, text in texts.items() if old in text)
    assert texts[file].count(old) == 1, old
    assert next(failures({file: texts[file].replace(old, new)}), None) is not None
