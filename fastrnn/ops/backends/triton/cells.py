"""The cells that save gates: one step of each, forward and backward.

`fastrnn.ops.cells` has the equations, with the same names. CELL is "LSTM", "GRU", "LEAKY" (a leaky
state) or "LEAKY_PRE" (a leaky pre-activation); RELU is the activation of the last two. All numbers
are float32. What a cell has for each gate is a tuple.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from .tile import activate, gradient_of


@triton.jit
def forward_step(
    pre,
    z,  # W_hh h, the product with the state before the step
    h,
    c,  # 0 for a cell without c
    unit_param,  # [H]: b_hn or the leak; 0 for a cell without
    dtype: tl.constexpr,
    CELL: tl.constexpr,
    RELU: tl.constexpr,
    FAST: tl.constexpr,
):
    """Return the gates, the inner value, h and c of a step; c is rounded to `dtype`."""
    if CELL == "LSTM":
        i, f = tl.sigmoid(pre[0] + z[0]), tl.sigmoid(pre[1] + z[1])
        g, o = activate(pre[2] + z[2], False, FAST), tl.sigmoid(pre[3] + z[3])
        c = stored(f * c + i * g, dtype)
        h = o * activate(c, False, FAST)
        gates, inner = (i, f, g, o), c
    elif CELL == "GRU":
        r, update = tl.sigmoid(pre[0] + z[0]), tl.sigmoid(pre[1] + z[1])
        q = z[2] + unit_param
        n = activate(pre[2] + r * q, False, FAST)
        h = n + update * (h - n)
        gates, inner = (r, update, n), q
    elif CELL == "LEAKY":
        act = activate(pre[0] + z[0], RELU, FAST)
        h = h + unit_param * (act - h)
        gates, inner = (act,), c
    else:
        u = pre[0] + z[0]
        c = stored(c + unit_param * (u - c), dtype)
        h = activate(c, RELU, FAST)
        gates, inner = (u,), c
    return gates, inner, h, c


@triton.jit
def backward_step(
    dh,
    dc,  # 0 for a cell without c
    gates,
    inner,
    before,  # c before the step, or h for a cell without c
    unit_param,
    CELL: tl.constexpr,
    RELU: tl.constexpr,
    FAST: tl.constexpr,
):
    """Return the gradients of pre, z, h and c before the step, and unit_param.

    That of h is without the product's part, W_hh^T dz.
    """
    zero = tl.zeros_like(dh)
    if CELL == "LSTM":
        i, f, g, o = gates[0], gates[1], gates[2], gates[3]
        tanh_c = activate(inner, False, FAST)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        di, df = dc * g * (i * (1 - i)), dc * before * (f * (1 - f))
        dg, do = dc * i * (1 - g * g), dh * tanh_c * (o * (1 - o))
        dpre = di, df, dg, do
        dz, dh, dc, of_param = dpre, zero, dc * f, zero
    elif CELL == "GRU":
        r, update, n = gates[0], gates[1], gates[2]
        of_update = dh * (before - n) * (update * (1 - update))
        dn = dh * (1 - update) * (1 - n * n)
        dq, dr = dn * r, dn * inner * (r * (1 - r))
        dpre, dz = (dr, of_update, dn), (dr, of_update, dq)
        dh, of_param = dh * update, dq
    elif CELL == "LEAKY":
        leaked, of_param = dh * unit_param, dh * (gates[0] - before)
        dpre = (gradient_of(leaked, gates[0], RELU),)
        dz, dh = dpre, dh - leaked
    else:
        dx = dc + gradient_of(dh, activate(inner, RELU, FAST), RELU)
        du, of_param = dx * unit_param, dx * (gates[0] - before)
        dpre = (du,)
        dz, dh, dc = dpre, zero, dx - du
    return dpre, dz, dh, dc, of_param


@triton.jit
def stored(value, dtype: tl.constexpr):
    """Round to the storage dtype, as a state that is stored."""
    return value.to(dtype).to(tl.float32)
