"""A case with its weights and inputs made: what every provider is given, and the truth of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import cycle
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from fastrnn.ops import reference
from fastrnn.ops.ragged import DENSE
from fastrnn.ops.weight_grad import weight_hh_grad

from .modes import MODES
from .shapes import Case

#: Calls take turns with so many inputs, as in training, where the caches hold another batch: with
#: four, and on a GPU with more than its L2 can hold, but no more than fill so much memory.
RING, MOST, L2, RING_BYTES = 4, 64, 128 * 2**20, 2**30


def row_lengths(steps: int, batch: int) -> Tensor:
    """Of packed rows, [B]: very uneven, from T to 1 in equal distances."""
    return torch.linspace(steps, 1, batch).long()


class Inputs(NamedTuple):
    """One call's: of a layer x [T, B, I], of a recurrence pre [T, B, G, H]; out's gradient."""

    x: Tensor | PackedSequence
    grad: Tensor

    @property
    def leaf(self) -> Tensor:
        """What the gradient of x is asked of."""
        return self.x.data if isinstance(self.x, PackedSequence) else self.x


#: A call of a provider: the output, in training followed by the gradients of x and the weights.
Call = Callable[[Inputs], list[Tensor]]


class Task:
    """A case on a device. Every provider computes with the same numbers.

    Weights are nn.RNN's own at the start of a training, U(±1/√H): no row of the truth grows or
    dies, which would change what a processor takes for an addition.

    Args:
        steps: stands for the case's number of steps, where only the code is to be tried.
    """

    def __init__(
        self, case: Case, device: torch.device | str = "cpu", steps: int | None = None
    ) -> None:
        self.case, self.work = case, case.work
        self.steps, self.is_trial = steps or case.work.T, steps is not None
        self.device = torch.device(device)
        self.dtype = MODES[case.mode].dtype
        self._generator = torch.Generator(self.device).manual_seed(0)
        work = case.work
        if case.scope == "layer":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.layer = nn.RNN(
                    work.I,
                    work.H,
                    work.layers,
                    work.activation,
                    bidirectional=work.bidirectional,
                ).to(self.device, self.dtype)
            self.layer.flatten_parameters()
            row = (work.I, work.directions * work.H)
        else:
            weight_hh = work.H**-0.5 * self._uniform(work.groups, work.H, work.H)
            h0 = self._uniform(work.B, work.groups, work.H)
            needs_grad = case.step != "inference"
            self.weight_hh, self.h0 = (t.requires_grad_(needs_grad) for t in (weight_hh, h0))
            row = (work.groups * work.H,) * 2
        size = max(1, self.steps * work.B * sum(row) * self.dtype.itemsize)
        self.inputs = [self._make_inputs() for _ in range(self._ring(size))]

    def _ring(self, size: int) -> int:
        """How many inputs of so many bytes there are."""
        if self.is_trial:
            return 1
        wanted = RING if self.device.type == "cpu" else max(RING, min(MOST, ceil(L2 / size)))
        return max(1, min(wanted, RING_BYTES // size))

    def _uniform(self, *shape: int) -> Tensor:
        values = torch.empty(shape, device=self.device)
        return values.uniform_(-1, 1, generator=self._generator).to(self.dtype)

    def _make_inputs(self) -> Inputs:
        work, needs_grad = self.work, self.case.step != "inference"
        if self.case.scope != "layer":
            shape = self.steps, work.B, work.groups, work.H
            pre = 2 * self._uniform(*shape)
            return Inputs(pre.requires_grad_(needs_grad), self._uniform(*shape))
        x = self._uniform(self.steps, work.B, work.I)
        width = work.directions * work.H
        if not work.packed:
            return Inputs(x.requires_grad_(needs_grad), self._uniform(self.steps, work.B, width))
        packed = pack_padded_sequence(x, row_lengths(self.steps, work.B))
        data = packed.data.detach().requires_grad_(needs_grad)
        return Inputs(packed._replace(data=data), self._uniform(len(data), width))

    def turns(self) -> Iterator[Inputs]:
        """The inputs, over and over."""
        return cycle(self.inputs)

    @cached_property
    def truth(self) -> list[Tensor]:
        """What a call with the first inputs should return, in float64."""
        inputs = in_float64(self.inputs[0])
        if self.case.scope == "layer":
            return of_layer(copy.deepcopy(self.layer).double(), self.case.step)(inputs)
        with torch.no_grad():  # the reference's backward is written out: no graph of T steps
            return self._recurrence(inputs, self.weight_hh.double(), self.h0.double())

    def _recurrence(self, inputs: Inputs, weight_hh: Tensor, h0: Tensor) -> list[Tensor]:
        options = reference.ACTIVATION_CODES[self.work.activation], self.work.groups
        out, _ = reference.forward(inputs.leaf, weight_hh, h0, DENSE, *options)
        if self.case.step != "training":
            return [out]
        state = torch.zeros_like(h0), out, weight_hh, h0
        grad_pre, grad_h0 = reference.backward(inputs.grad, *state, DENSE, *options)
        grad_weight = weight_hh_grad(grad_pre, out, h0, DENSE, self.work.groups)
        return [out, grad_pre, grad_weight, grad_h0]


def in_float64(inputs: Inputs) -> Inputs:
    """The same numbers; x asks for its gradient."""
    data = inputs.leaf.detach().double().requires_grad_()
    x = inputs.x._replace(data=data) if isinstance(inputs.x, PackedSequence) else data
    return Inputs(x, inputs.grad.double())


def stepped(
    step: str, output: Callable[[Tensor | PackedSequence], Tensor], weights: Sequence[Tensor]
) -> Call:
    """A call that does one step with a function from x to the output.

    Args:
        weights: in training their gradients are computed, after that of x.
    """
    if step == "inference":

        def infer(inputs: Inputs) -> list[Tensor]:
            with torch.inference_mode():
                return [output(inputs.x)]

        return infer
    if step == "forward":
        return lambda inputs: [output(inputs.x)]

    def train(inputs: Inputs) -> list[Tensor]:
        out = output(inputs.x)
        return [out, *torch.autograd.grad(out, [inputs.leaf, *weights], inputs.grad)]

    return train


def of_layer(layer: nn.Module, step: str) -> Call:
    """A call of a module that takes and returns what nn.RNN does."""

    def output(x: Tensor | PackedSequence) -> Tensor:
        out = layer(x)[0]
        return out.data if isinstance(out, PackedSequence) else out

    return stepped(step, output, list(layer.parameters()))
