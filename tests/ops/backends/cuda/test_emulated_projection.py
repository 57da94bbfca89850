"""Run the cluster kernels with an input projection in the emulator, as test_emulated_cells.py does.

The input and W_ih are such that pre is exact in every dtype, so the bounds are those of a
recurrence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from fastrnn.ops.arguments import Arguments, Outputs
from fastrnn.testing import Problem
from tests.emulators.cuda import emulated
from tests.emulators.cuda.emulated import tiling_for
from tests.emulators.cuda.server import EmulationError
from tests.utils.checks import check_recurrence
from tests.utils.strategies import problems

from .test_emulated import ELEMENTS
from .test_emulated_cells import TOO_LARGE, marked
from .test_emulated_layers import in_directions, of_directions, replaced_inputs

CELLS = ("RNN", "LSTM", "GRU")
SLOW = {("float32", "RNN"), ("bfloat16", "GRU")}


def kernels() -> list[Any]:
    elements = ("bfloat16", "float16", "tf32", "float32")
    return marked([(element, kind) for element in elements for kind in CELLS], set(), SLOW)


@dataclass(frozen=True)
class Projection:
    """A problem whose pre is the projection of an input, as a module for `check_recurrence`.

    It takes the place of the problem too: `inputs` has the projection as pre.
    """

    problem: Problem
    inputs_of_layer: int  # I

    def __getattr__(self, name: str) -> Any:
        return getattr(self.problem, name)

    @property
    def heads(self) -> int:
        return min(self.problem.reverse_from, self.problem.groups) or self.problem.groups

    def tensors_of_layer(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return x, W_ih [D, K, heads, H, I] and the biases [D, K, heads, H].

        Two weights of a row are not 0, and they are ½. x and the biases are multiples of 1/8.
        """
        problem, width = self.problem, self.inputs_of_layer
        generator = torch.Generator().manual_seed(problem.seed + 1)
        pre, _ = problem.inputs()
        shape = 2, problem.cell.gates, self.heads, problem.hidden
        x = torch.randint(-8, 9, (*pre.shape[:-2], width), generator=generator) / 8
        places = torch.randint(0, width, (*shape, 2), generator=generator)
        signs = torch.randint(0, 2, (*shape, 2), generator=generator) - 0.5
        weight_ih = torch.zeros(*shape, width).scatter_(-1, places, signs)
        biases = torch.randint(-8, 9, shape, generator=generator) / 8
        if problem.cell.gates > 1:
            biases[:, 1] -= 2
        return x, weight_ih, biases

    def inputs(self, device: str = "cpu") -> tuple[Tensor, Arguments]:
        _, arguments = self.problem.inputs(device)
        x, weight_ih, biases = self.tensors_of_layer()
        pre = torch.einsum("...i,dkjhi->...djkh", x, weight_ih) + biases.transpose(1, 2)
        pre = pre.flatten(-4, -3).flatten(-2)[..., : self.problem.groups, :]
        return pre.to(self.problem.dtype), arguments

    def recurrence(self, pre: Tensor, arguments: Arguments, save: bool, **options: Any) -> Outputs:
        dtype, heads = self.problem.dtype, self.heads
        x, weight_ih, biases = (t.to(dtype) for t in self.tensors_of_layer())
        replaced = {"pre": None, "input": x, **replaced_inputs(arguments, heads)}
        for d, suffix in enumerate(("", "_reverse")[: self.problem.groups // heads]):
            replaced[f"weight_ih{suffix}"] = weight_ih[d]
            replaced[f"bias_ih{suffix}"] = biases[d]
        for name in ("reset_h", "reset_c"):
            start = getattr(arguments, name)
            replaced[name] = start if start is None else in_directions(start, heads)
        options = {"strategy": "cluster", **options}
        found = emulated.recurrence(pre, arguments, save, replaced=replaced, heads=heads, **options)
        h_n, c_n = (x if x is None else of_directions(x, heads) for x in (found.h_n, found.c_n))
        return found._replace(h_n=h_n, c_n=c_n)


@st.composite
def projections(draw: st.DrawFn, element: str, kind: str) -> tuple[Projection, dict[str, Any]]:
    dtype, _ = ELEMENTS[element]
    directions = draw(st.integers(1, 2))
    heads = draw(st.integers(1, 2)) if kind == "RNN" else 1
    problem = draw(
        problems(
            dtype=dtype,
            kind=kind,
            steps=draw(st.integers(1, 9)),
            hidden=draw(st.sampled_from([1, 3, 8, 15, 16, 17, 33, 48])),
            groups=directions * heads,
            reverse_from=heads,
        )
    )
    units = -(-problem.hidden // 16)
    blocks = draw(st.sampled_from([n for n in (1, 2) if n == 1 or n <= units]))
    tiling = tiling_for(
        *("cluster", problem.hidden, dtype),
        blocks=blocks,
        splits=draw(st.sampled_from([1, 2])),
        resident=draw(st.sampled_from([4, 8])),
        rows=draw(st.sampled_from([1, 3, 7, 8])),
    )
    options = {
        "tf32": element == "tf32",
        "tiling": tiling,
        "seed": draw(st.integers(0, 2**31)),
        "misaligned": draw(st.booleans()),
    }
    width = draw(st.sampled_from([1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 50, 64]))
    return Projection(problem, width), options


@pytest.mark.parametrize(("element", "kind"), kernels())
def test_random_problems(element: str, kind: str) -> None:
    @settings(max_examples=8, deadline=None)
    @given(projections(element, kind))
    def random(run: tuple[Projection, dict[str, Any]]) -> None:
        projection, options = run
        try:
            check_recurrence(projection, projection, mode=ELEMENTS[element][1], **options)
        except EmulationError as error:
            if not any(message in str(error) for message in TOO_LARGE):
                raise
            reject()

    random()
