"""The specification: the grouped recurrence and its backward in plain PyTorch.

Every kernel computes the same results as `forward` and `backward`. Both consist of differentiable
torch operations, so autograd can differentiate either one. The second derivative of every backend
is the derivative of `backward` below. `cells` defines what a step computes.

Symbols, here and in every kernel: T steps, B batch rows, G groups, H hidden units, K gates; ``pre``
is the input projection, the input's part of the pre-activations, ``h`` and ``c`` the states, and
``dz`` the gradient of W_hh h_{t-1}. States, saved values and dz are stored in pre's dtype at every
step; sums are accumulated in `accumulation_dtype`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import Arguments, Gradients, Outputs, State
from .cells import CELLS
from .cells.base import Step
from .ragged import Ragged
from .time_shift import is_active, zero_padding


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half precision, and the dtype itself otherwise."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def forward(
    pre: Tensor,  # [T, B, G, K·H], or [N, G, K·H] if packed
    arguments: Arguments,
) -> Outputs:
    """Run the cell step by step; see `fastrnn.functional.recurrence`."""
    cell = CELLS[arguments.mode]
    acc = accumulation_dtype(pre.dtype)
    layout = Layout(pre, arguments.h0, arguments.ragged())
    padded = layout.pad(pre)

    def store(x: Tensor) -> Tensor:
        return x.to(pre.dtype).to(acc)

    def run(groups: slice, steps: range) -> tuple[list[Any], State]:
        of_groups = _Groups(arguments, groups, acc)
        h, c = of_groups.initial
        results: dict[int, list[Tensor]] = {}
        for t in steps:
            crosses = layout.crosses_reset(t, steps)
            before: list[Any] = [
                None if x is None else _at_reset(x, crosses, start).to(acc)
                for x, start in zip((h, c), of_groups.reset, strict=True)
            ]
            x, z = padded[t, :, groups].to(acc), _matvec(of_groups.weight, before[0])
            new = cell.forward(x, z, State(*before), of_groups.unit_param, store)
            stored: list[Any] = [
                x if x is None else x.to(pre.dtype) for x in (*new.state, *new[1:])
            ]
            saved = [x for x in stored[2:] if x is not None and cell.saves]
            results[t] = [layout.only_active(t, x) for x in (stored[0], *saved)]
            h = layout.keep(t, stored[0], h)
            c = c if c is None else layout.keep(t, stored[1], c)
        by_kind = zip(*(results[t] for t in range(layout.steps)), strict=True)
        return [torch.stack(x) for x in by_kind], State(h, c)

    data, states = _each_direction(run, layout.steps, arguments)
    out, *saved = (layout.pack(x, like=pre) for x in data)
    gates, inner, *_ = (*saved, None, None)
    return Outputs(out, states[0], states[1], gates, inner)


def backward(
    grads: Outputs,  # None: zero, except for out and h_n
    saved: Step,  # of all steps: out, and what `forward` saved
    arguments: Arguments,
) -> Gradients:
    """Run the cell's backward in the reverse order of `forward`."""
    cell = CELLS[arguments.mode]
    dtype = saved.state.h.dtype
    acc = accumulation_dtype(dtype)
    layout = Layout(saved.state.h, arguments.h0, arguments.ragged())
    out, gates, inner, grad_out, grad_gates, grad_inner = (
        None if x is None else layout.pad(x)
        for x in (saved.state.h, *saved[1:], grads.out, grads.gates, grads.inner)
    )

    def run(groups: slice, steps: range) -> tuple[list[Any], list[Any]]:
        def at(x: Tensor | None, t: int) -> Any:
            return None if x is None else x[t, :, groups].to(acc)

        of_groups = _Groups(arguments, groups, acc)
        weight_t = of_groups.weight.mT
        dh, dc = grads.h_n[:, groups].to(acc), None
        if cell.has_c:
            dc = torch.zeros_like(dh) if grads.c_n is None else grads.c_n[:, groups].to(acc)
        resets: list[Any] = [x if x is None else torch.zeros_like(dh) for x in of_groups.reset]
        results: dict[int, list[Tensor]] = {}
        for t in reversed(steps):
            step = Step(State(at(out, t)), at(gates, t), at(inner, t))
            state = State(at(grad_out, t) + dh, dc)
            grad = Step(state, at(grad_gates, t), at(grad_inner, t))
            before = step.state
            if cell.saves:
                states_of_all = out, inner if cell.has_c else None
                before = of_groups.state_before(t, steps, layout, states_of_all)
            new = cell.backward(grad, step, before, of_groups.unit_param)
            dz = new.z.to(dtype)
            to_before: list[Any] = [new.before.h + _matvec(weight_t, dz.to(acc)), new.before.c]
            crosses = layout.crosses_reset(t, steps)
            for k, x in enumerate(to_before):
                if x is None or crosses is None:
                    continue
                if resets[k] is not None:
                    resets[k] = resets[k] + x.where(crosses, 0)
                to_before[k] = x.where(~crosses, 0)
            of_step = [x.to(dtype) for x in (new.pre, new.unit_param) if x is not None]
            results[t] = [layout.only_active(t, x) for x in of_step]
            dh = layout.keep(t, to_before[0], dh)
            dc = dc if dc is None else layout.keep(t, to_before[1], dc)
        by_kind = zip(*(results[t] for t in range(layout.steps)), strict=True)
        states = [None if x is None else x.to(dtype) for x in (dh, dc, *resets)]
        return [torch.stack(x) for x in by_kind], states

    data, states = _each_direction(run, layout.steps, arguments)
    grad_pre, *of_units = (layout.pack(x, like=grads.out) for x in data)
    grad_h0, grad_c0, *of_resets = states
    return Gradients(grad_pre, grad_h0, grad_c0, of_units[0] if of_units else None, *of_resets)


class _Groups:
    """The arguments of some groups."""

    def __init__(self, arguments: Arguments, groups: slice, acc: torch.dtype) -> None:
        self.groups, self.acc = groups, acc
        self.weight = arguments.weight_hh[groups].to(acc)
        unit_param = arguments.unit_param
        self.unit_param = None if unit_param is None else unit_param[groups].to(acc)
        self.initial: tuple[Any, ...]
        self.reset: tuple[Any, ...]
        self.initial, self.reset = (
            tuple(None if x is None else x[:, groups] for x in given)
            for given in (
                (arguments.h0, arguments.c0),
                (arguments.reset_h, arguments.reset_c),
            )
        )

    def state_before(
        self,
        t: int,
        steps: range,
        layout: Layout,
        states: tuple[Tensor | None, Tensor | None],  # h and c of all steps, [T, B, G, H]
    ) -> State:
        """Return the state before step t: that of the step before it in `steps`, or the first."""
        previous, crosses = t - steps.step, layout.crosses_reset(t, steps)
        before: list[Any] = [None, None]
        for k, x in enumerate(states):
            if x is None:
                continue
            state = self.initial[k]
            if previous in steps:
                state = layout.keep(previous, x[previous, :, self.groups], state)
            before[k] = _at_reset(state, crosses, self.reset[k]).to(self.acc)
        return State(*before)


def _matvec(weight: Tensor, h: Tensor) -> Tensor:
    """Compute W h per row and group: weight [G, H, K], h [B, G, K] -> [B, G, H]."""
    return (h.transpose(0, 1) @ weight.mT).transpose(0, 1)


def _at_reset(state: Tensor, crosses: Tensor | None, start: Tensor | None) -> Tensor:
    """Return `start`, by default 0, where a row crosses a reset."""
    if crosses is None:
        return state
    return state.where(~crosses, 0 if start is None else start)


def _each_direction(
    run: Callable[[slice, range], tuple[list[Any], Sequence[Any]]],
    steps: int,
    arguments: Arguments,
) -> tuple[list[Any], list[Any]]:
    """Run the groups before reverse_from from the first step to the last, and the others back.

    `run` returns tensors [T, B, G, ...] and states [B, G, H], of which some may be None.
    """
    groups, reverse_from = arguments.weight_hh.shape[0], arguments.reverse_from
    if reverse_from >= groups:
        data, states = run(slice(None), range(steps))
        return data, list(states)
    if reverse_from == 0:
        data, states = run(slice(None), range(steps)[::-1])
        return data, list(states)
    first = run(slice(None, reverse_from), range(steps))
    second = run(slice(reverse_from, None), range(steps)[::-1])
    return (
        [torch.cat(both, 2) for both in zip(first[0], second[0], strict=True)],
        [
            None if both[0] is None else torch.cat(both, 1)
            for both in zip(first[1], second[1], strict=True)
        ],
    )


class Layout:
    """The layout of the data: row positions, active rows (t < lengths[b]) and resets."""

    def __init__(self, data: Tensor, h0: Tensor, ragged: Ragged) -> None:
        lengths, offsets, resets = ragged
        self.steps = ragged.steps(data)
        self.active = None if lengths is None else is_active(self.steps, lengths)  # [T, B]
        self.rows: Tensor | None = None  # [T, B], for packed data
        if offsets is not None and self.active is not None:
            rows = offsets[:, None] + torch.arange(h0.shape[0], device=h0.device)
            # All inactive positions map to one extra row at the end.
            self.rows = rows.where(self.active, data.shape[0])
        self.resets = resets if resets is None else self.pad(resets)  # [T, B]

    def pad(self, data: Tensor) -> Tensor:
        """[T, B, ...], or [N, ...] if packed -> [T, B, ...], 0 where a row is inactive."""
        if self.active is None:
            return data
        if self.rows is None:
            return zero_padding(data, self.active)
        data = torch.cat((data, data.new_zeros(1, *data.shape[1:])))
        # reshape, not flatten: it supports vmap, as in grad_matmul.
        padded = data.index_select(0, self.rows.reshape(-1))
        return padded.reshape(*self.rows.shape, *data.shape[1:])

    def pack(self, data: Tensor, like: Tensor) -> Tensor:
        """[T, B, ...] -> [N, ...] if packed, with the number of rows of `like`."""
        if self.rows is None:
            return data
        packed = data.new_zeros(like.shape[0] + 1, *data.shape[2:])
        rows = data.reshape(-1, *data.shape[2:])
        return packed.index_copy(0, self.rows.reshape(-1), rows)[:-1]

    def crosses_reset(self, t: int, steps: range) -> Tensor | None:
        """Whether a row has a reset between step t and the step before it in `steps`: [B, 1, 1]."""
        later = t if steps.step > 0 else t + 1
        if self.resets is None or later == self.steps:
            return None
        return self.resets[later, :, None, None]

    def only_active(self, t: int, x: Tensor) -> Tensor:
        """Return x [B, G, ...], and 0 where a row is inactive at step t."""
        return x if self.active is None else x.where(self.active[t, :, None, None], 0)

    def keep(self, t: int, new: Tensor, state: Tensor) -> Tensor:
        """Return the new state, and the given one where a row is inactive at step t."""
        return new if self.active is None else new.where(self.active[t, :, None, None], state)
