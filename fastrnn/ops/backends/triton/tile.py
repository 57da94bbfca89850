"""Functions that the kernels share: the activation, step addressing, masks and resets.

A kernel iterates over its steps in the order of the loop, i = 0, 1, …; `locate` converts i to the
step t and its first row in the data. `active_at` returns which elements of a tile are active at the
step, and `cut_before` which rows start a new sequence there.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

#: Arguments that Triton must not specialize a kernel on, as it does for 1 and multiples of 16.
SIZES = ["steps", "batch", "groups", "reverse_from"]


@triton.jit
def activate(z, RELU: tl.constexpr, FAST: tl.constexpr):
    """Compute act(z), float32. FAST: use the hardware's tanh, with a relative error up to 2^-11."""
    if RELU:
        h = tl.where(z < 0, 0.0, z)  # unlike a maximum, this propagates NaN
    elif FAST:
        h = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [z], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        h = tanh(z)
    return h


@triton.jit
def tanh(z):
    """Compute tanh within 5 units of roundoff for every z.

    Below 0.625: z + z³ P(z²), with P fitted for the least relative error, 4e-9 with these five
    terms. Above: 1 - 2 / (exp(2z) + 1), without significant cancellation.
    """
    s = z * z
    p = -5.704978480935097e-3
    p = p * s + 2.0639078691601753e-2
    p = p * s - 5.373971164226532e-2
    p = p * s + 1.3331441581249237e-1
    p = p * s - 3.333328068256378e-1
    small = (p * s) * z + z
    magnitude = tl.abs(z)
    large = 1 - 2 / (tl.exp(2 * magnitude) + 1)
    return tl.where(magnitude < 0.625, small, tl.where(z < 0, -large, large))


@triton.jit
def gradient_of(dh, h, RELU: tl.constexpr):
    """Compute dz = dh act'(z) from h = act(z), float32. With relu, h <= 0 gives 0, even for NaN."""
    return tl.where(h <= 0, 0.0, dh) if RELU else dh * (1 - h * h)


@triton.jit
def confine(value, inside, H: tl.constexpr, PADDED: tl.constexpr):
    """Set padding units to 0: an infinite value, multiplied by the 0 in W_hh's padding, is NaN."""
    return value if H == PADDED else tl.where(inside, value, 0.0)


@triton.jit
def locate(i, steps, batch, backwards, offsets):
    """Return the step t of iteration i, and its first row in [T·B or N, G, H].

    Past the end, return the last step. The row has 64 bits: T·B·G·H may exceed 2^31.
    """
    i = tl.minimum(i, steps - 1)
    t = tl.where(backwards, steps - 1 - i, i)
    row = t.to(tl.int64) * batch if offsets is None else tl.load(offsets + t).to(tl.int64)
    return t, row


@triton.jit
def ends(lengths, rows, batch, steps):
    """Return the length of each row, at most `steps`; None without lengths."""
    if lengths is None:
        end = None
    else:
        end = tl.minimum(tl.load(lengths + rows, mask=rows < batch, other=0), steps).to(tl.int32)
    return end


@triton.jit
def active_at(t, end, inside):
    """Return which elements inside the tile belong to a row that is active at step t."""
    return inside if end is None else inside & as_mask(t < end)


@triton.jit
def as_mask(condition):
    """Convert a condition that may be a scalar to a mask that can be combined with others.

    Triton's interpreter converts a scalar comparison to int32 when it broadcasts it, and from 3.9
    on rejects such a mask. The compiler folds this to the condition itself.
    """
    return tl.where(condition, True, False)


@triton.jit
def cut_before(i, steps, batch, backwards, offsets, resets, end, rows):
    """Load each row's reset flag (a byte) at the boundary before iteration i, or return None.

    Iteration `steps` stands for the boundary after the last step. Kernels load the flag ahead of
    its iteration, like pre. They must not use it before `cross`, since that waits for the load.
    """
    if resets is None:
        cut = None
    else:
        later = tl.where(backwards, steps - i, i)  # the later of the two steps at the boundary
        exists = (later >= 0) & (later < steps)
        if offsets is None:
            row = later.to(tl.int64) * batch
        else:
            row = tl.load(offsets + later, mask=exists, other=0).to(tl.int64)
        active = active_at(later, end, (rows < batch) & as_mask(exists))
        cut = tl.load(resets + (row + rows), mask=active, other=0)
    return cut


@triton.jit
def cross(value, cut):
    """Zero a state, or its product, in rows that a reset cuts; `cut` is from `cut_before`."""
    return value if cut is None else tl.where(cut == 0, value, 0.0)


@triton.jit
def store_step(data, place, value, inside, active, end, offsets):
    """Store a step's rows. Inactive rows are 0 in padded data, and do not exist in packed data."""
    if offsets is not None:
        tl.store(data + place, value, mask=active)
    elif end is not None:
        tl.store(data + place, tl.where(active, value, 0.0), mask=inside)
    else:
        tl.store(data + place, value, mask=inside)
