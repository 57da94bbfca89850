"""The weights and inputs of a case, which all providers share, and its expected results."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import cycle
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from .cells import Loop, loop, recurrence
from .precision import MODES
from .shapes import Case

#: The calls of a workload cycle through several inputs, so that the caches hold another batch, as
#: in training. A CPU gets MIN_INPUTS of them. A GPU gets enough to exceed its L2, up to MAX_INPUTS.
#: Together they take at most MAX_INPUT_BYTES.
MIN_INPUTS, MAX_INPUTS, L2_BYTES, MAX_INPUT_BYTES = 4, 64, 128 * 2**20, 2**30


def row_lengths(steps: int, batch: int) -> Tensor:
    """Return the lengths of packed rows, [B]: equally spaced from T down to 1."""
    return torch.linspace(steps, 1, batch).long()


class Inputs(NamedTuple):
    """The inputs of one call."""

    x: Tensor | PackedSequence  #: [T, B, I]; for a recurrence pre, [T, B, G, H]
    grad: Tensor  #: the gradient of the output

    @property
    def leaf(self) -> Tensor:
        """The tensor whose gradient is computed."""
        return self.x.data if isinstance(self.x, PackedSequence) else self.x


#: A call of a provider. It returns the output, and in training the gradients of x and the weights,
#: as tensors or in a format that `Provider.tensors` converts.
Call = Callable[[Inputs], Any]


class Workload:
    """A case on a device. All providers compute with the same numbers.

    The weights have torch's own initialisation, U(±1/√H), so that no state grows or vanishes.
    Denormal numbers, for instance, would slow down a processor.

    Args:
        steps: replaces the number of steps of the case, to try the code.
    """

    def __init__(
        self, case: Case, device: torch.device | str = "cpu", steps: int | None = None
    ) -> None:
        self.case, self.shape = case, case.shape
        self.steps, self.is_trial = steps or case.shape.T, steps is not None
        self.device = torch.device(device)
        self.dtype = MODES[case.mode].dtype
        self._generator = torch.Generator(self.device).manual_seed(0)
        shape = case.shape
        if case.scope == "layer":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                make: type[nn.RNNBase] = getattr(nn, shape.of_cell.layer)
                self.layer = make(**shape.layer_arguments).to(self.device, self.dtype)
            self.layer.flatten_parameters()
            row = (shape.I, shape.directions * shape.H)
        else:
            weight_hh = shape.H**-0.5 * self._uniform(shape.groups, shape.H, shape.H)
            h0 = self._uniform(shape.B, shape.groups, shape.H)
            needs_grad = case.step != "inference"
            self.weight_hh, self.h0 = (t.requires_grad_(needs_grad) for t in (weight_hh, h0))
            row = (shape.groups * shape.H,) * 2
        size = max(1, self.steps * shape.B * sum(row) * self.dtype.itemsize)
        self.inputs = [self._make_inputs() for _ in range(self._num_inputs(size))]

    def _num_inputs(self, size: int) -> int:
        """Return the number of inputs, each of `size` bytes."""
        if self.is_trial:
            return 1
        wanted = MIN_INPUTS
        if self.device.type != "cpu":
            wanted = max(MIN_INPUTS, min(MAX_INPUTS, ceil(L2_BYTES / size)))
        return max(1, min(wanted, MAX_INPUT_BYTES // size))

    def _uniform(self, *size: int) -> Tensor:
        values = torch.empty(size, device=self.device)
        return values.uniform_(-1, 1, generator=self._generator).to(self.dtype)

    def _make_inputs(self) -> Inputs:
        shape, needs_grad = self.shape, self.case.step != "inference"
        if self.case.scope != "layer":
            size = self.steps, shape.B, shape.groups, shape.H
            pre = 2 * self._uniform(*size)
            return Inputs(pre.requires_grad_(needs_grad), self._uniform(*size))
        x = self._uniform(self.steps, shape.B, shape.I)
        width = shape.directions * shape.H
        if not shape.packed:
            return Inputs(x.requires_grad_(needs_grad), self._uniform(self.steps, shape.B, width))
        packed = pack_padded_sequence(x, row_lengths(self.steps, shape.B))
        data = packed.data.detach().requires_grad_(needs_grad)
        return Inputs(packed._replace(data=data), self._uniform(len(data), width))

    def converted(self, convert: Callable[[Inputs], Any]) -> Callable[[Inputs], Any]:
        """Convert all inputs once, and return a function from inputs to the converted ones."""
        found = {id(inputs): convert(inputs) for inputs in self.inputs}
        return lambda inputs: found[id(inputs)]

    def cycle_inputs(self) -> Iterator[Inputs]:
        """Cycle through the inputs endlessly."""
        return cycle(self.inputs)

    @cached_property
    def expected(self) -> list[Tensor]:
        """The results of a call on the first inputs, computed in float64."""
        inputs = in_float64(self.inputs[0])
        if self.case.scope == "layer":
            return layer_call(copy.deepcopy(self.layer).double(), self.case.step)(inputs)
        weights = [t.detach().double().requires_grad_() for t in (self.weight_hh, self.h0)]
        return self.recurrence_call(*weights)(inputs)

    def recurrence_call(self, weight_hh: Tensor, h0: Tensor, run: Loop = loop) -> Call:
        """Return a call of the recurrence alone.

        Args:
            run: replaces `cells.loop`.
        """
        weights, activation = [weight_hh, h0], self.shape.activation
        return make_call(
            self.case.step, lambda pre: recurrence(pre, *weights, activation, run), weights
        )


def in_float64(inputs: Inputs) -> Inputs:
    """Convert inputs to float64; x requires a gradient."""
    data = inputs.leaf.detach().double().requires_grad_()
    x = inputs.x._replace(data=data) if isinstance(inputs.x, PackedSequence) else data
    return Inputs(x, inputs.grad.double())


def make_call(
    step: str, output: Callable[[Tensor | PackedSequence], Tensor], weights: Sequence[Tensor]
) -> Call:
    """Return a call that runs one of `shapes.STEPS` with a function from x to the output.

    Args:
        weights: tensors whose gradients training computes, after the gradient of x.
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


def layer_call(layer: nn.Module, step: str) -> Call:
    """Return a call of a module with the interface of nn.RNN."""

    def output(x: Tensor | PackedSequence) -> Tensor:
        out = layer(x)[0]
        return out.data if isinstance(out, PackedSequence) else out

    return make_call(step, output, list(layer.parameters()))
