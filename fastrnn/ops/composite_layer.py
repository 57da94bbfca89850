"""The operator `layer` for devices without a kernel for it: its parts, below autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._torch_private import below_views
from .arguments import Arguments, Gradients, Outputs, State, concatenate
from .autocast import without_autocast
from .backends import dispatch
from .cells import CELLS
from .cells.base import Step
from .grad_matmul import outer
from .linear import multiply
from .parameters import merge_directions, split_biases, split_directions, split_rows
from .ragged import Ragged
from .recurrence import recurrence, recurrence_by, recurrence_out
from .traceable_layer import as_h0, as_state, by_request, layer_by, layers_of
from .weight_grad import weight_hh_grads

#: The bits of `needs`: the gradients to compute.
INPUT, STATES, WEIGHT_IH, WEIGHT_HH, BIASES, LEAK = (1 << bit for bit in range(6))


def forward(
    input: Tensor,
    weights: Sequence[Tensor],
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    mode: int,
    num_layers: int,
    directions: int,
    _: bool,  # no other kernels round the factors of products
    save: bool,
) -> list[Tensor]:
    """Compute `fastrnn::layer`, by the requested backend."""
    cell, ragged = CELLS[mode], Ragged(lengths, offsets, resets)
    hx = None if h0 is None else State(h0, c0)
    last_states, saved = [], []
    with below_views():
        for index, (own, first) in enumerate(layers_of(hx, weights, num_layers, directions)):
            input, last, results = _layer(input, first, own, ragged, mode, directions, save)
            last_states.append(last)
            if save:
                kept = [input if index + 1 < num_layers else None, results.gates, results.inner]
                saved += [x for x in kept if x is not None]
        last = concatenate(last_states)
    return [input, last.h, *([last.c] if cell.has_c else []), *saved]


@without_autocast
def _layer(
    input: Tensor,
    hx: State | None,
    weights: Sequence[Tensor],
    ragged: Ragged,
    mode: int,
    directions: int,
    save: bool,
) -> tuple[Tensor, State, Outputs]:
    # Not for packed data: rows that belong to no step must be 0.
    in_place = ragged.offsets is None and dispatch.number_by_name(input) is None
    recur = _in_place if in_place else by_request
    given = input, hx, weights, ragged, None, mode, directions, save
    output, last, _, results = layer_by(F.linear, recur, *given)
    return output, last, results


def _in_place(pre: Tensor, arguments: Arguments, save: bool) -> Outputs:
    """Run the recurrence in place: a result reuses the memory of pre, which has no other user.

    That is the saved gates, or without them the out of a cell of one gate.
    """
    cell = CELLS[arguments.mode]
    if not cell.saves:
        return Outputs(pre, recurrence_out(pre, *arguments, out=pre))
    h0 = arguments.h0
    shape = *pre.shape[:-1], h0.shape[-1]
    out = pre if cell.gates == 1 and not save else pre.new_empty(shape)
    inner = pre.new_empty(shape) if save and cell.has_inner else None
    c_n = h0.new_empty(h0.shape) if cell.has_c else None
    gates = pre if save else None
    h_n = recurrence_out(pre, *arguments, out=out, c_n=c_n, gates=gates, inner=inner)
    return Outputs(out, h_n, c_n, gates, inner)


@without_autocast
def backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    output: Tensor,
    saved: Sequence[Tensor],
    input: Tensor,
    weights: Sequence[Tensor],
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    offsets: Tensor | None,
    resets: Tensor | None,
    mode: int,
    num_layers: int,
    directions: int,
    _: bool,
    needs: int,
    backend: int | None = None,  # the number of the backend that ran the forward
) -> list[Tensor]:
    """Compute `fastrnn::layer_backward`."""
    cell, ragged = CELLS[mode], Ragged(lengths, offsets, resets)
    hx = None if h0 is None else State(h0, c0)
    per_layer = (num_layers > 1) + cell.saves + cell.has_inner
    grad = grad_output
    states: list[State] = []
    of_weights: list[Tensor] = []
    with below_views():
        for k in reversed(range(num_layers)):
            own, first = layers_of(hx, weights, num_layers, directions)[k]
            kept = list(saved[k * per_layer : (k + 1) * per_layer])
            out = kept.pop(0) if k + 1 < num_layers else output
            x = input if k == 0 else saved[(k - 1) * per_layer]
            last = slice(k * directions, (k + 1) * directions)
            of_last = [g if g is None else g[last] for g in (grad_h_n, grad_c_n)]
            step = Step(State(out), *(kept or (None, None)))
            layer = _Backward(x, first, own, ragged, mode, directions, step, backend)
            wanted = needs | (INPUT if k > 0 else 0)
            grad, of_first, grads = layer.gradients(grad, of_last, wanted)
            states.insert(0, of_first)
            of_weights = grads + of_weights
        results = [grad] if needs & INPUT else []
        results += concatenate(states) if needs & STATES else []
    return [x for x in (*results, *of_weights) if x is not None]


class _Backward:
    """The backward of a layer."""

    def __init__(
        self,
        input: Tensor,
        hx: State | None,
        weights: Sequence[Tensor],
        ragged: Ragged,
        mode: int,
        directions: int,
        saved: Step,  # the output in place of h
        backend: int | None,
    ) -> None:
        self.input, self.weights, self.directions = input, weights, directions
        self.cell, self.backend, self.from_zero = CELLS[mode], backend, hx is None
        merged = merge_directions(weights, directions, self.cell, with_bias=False)
        self.weight_ih, weight_hh, _, unit_param = merged
        self.groups, _, self.size = weight_hh.shape
        self.heads = self.groups // directions
        output = saved.state.h
        self.out = output.reshape(*output.shape[:-1], self.groups, self.size)
        self.saved = Step(State(self.out), saved.gates, saved.inner)
        if hx is None:
            h0 = input.new_zeros(ragged.batch(input), self.groups, self.size)
            first = State(h0, h0 if self.cell.has_c else None)
        else:
            first = hx.map(lambda x: as_state(x, self.groups, self.size))
        self.arguments = Arguments(
            weight_hh, first.h, first.c, unit_param, *ragged, None, None, mode, self.heads
        )

    def gradients(
        self, grad_output: Tensor | None, last: Sequence[Tensor | None], needs: int
    ) -> tuple[Tensor | None, State, list[Tensor]]:
        """Return the gradients of the input, of the first state and of the weights."""
        out = self.out
        grad_out = torch.zeros_like(out) if grad_output is None else grad_output.reshape(out.shape)
        grad_h_n, grad_c_n = (x if x is None else as_state(x, self.groups, self.size) for x in last)
        if grad_h_n is None:
            h0 = self.arguments.h0
            grad_h_n = h0 if self.from_zero else torch.zeros_like(h0)
        grads = Outputs(grad_out, grad_h_n, grad_c_n)
        results = self._recurrence(grads)
        rows = results.pre.reshape(-1, self.weight_ih.shape[0])
        grad_input = None
        if needs & INPUT:
            grad_input = multiply(rows, self.weight_ih).reshape(self.input.shape)
        first = State(results.h0, results.c0).map(lambda x: as_h0(x, self.directions))
        return grad_input, first, self._of_weights(results, rows, needs)

    def _recurrence(self, grads: Outputs) -> Gradients:
        given = grads, self.saved, self.arguments
        if self.backend is None:
            return recurrence.backward(*given)
        return recurrence_by.backward(*given, self.backend)

    def _of_weights(self, results: Gradients, rows: Tensor, needs: int) -> list[Tensor]:
        """Return the gradients of each direction's weights that `needs` names."""
        directions, cell, heads = self.directions, self.cell, self.heads
        kinds: list[Sequence[Tensor]] = []
        if needs & WEIGHT_IH:
            product = outer((rows, self.input.reshape(-1, self.input.shape[-1])))
            shape = self.weights[0].shape
            kinds.append(split_rows(product, shape, cell, heads, directions))
        if needs & WEIGHT_HH:
            shape = self.weights[1].shape
            products = weight_hh_grads(results, self.out, self.arguments, self.from_zero)
            if len(products) == directions:
                kinds.append([product.reshape(shape) for product in products])
            else:
                kinds.append(split_directions(products[0], shape, directions))
        of_units = None
        if results.unit_param is not None and needs & (BIASES | LEAK):
            of_units = results.unit_param.reshape(-1, self.groups * self.size).sum(0)
        if needs & BIASES and len(self.weights) >= 4 * directions:
            of_hh = None if cell.is_leaky else of_units
            kinds += split_biases(rows.sum(0), of_hh, cell, heads, directions)
        if needs & LEAK and cell.is_leaky and of_units is not None:
            kinds.append(split_directions(of_units, (heads * self.size,), directions))
        return [kind[d] for d in range(directions) for kind in kinds]
