"""What the kernels share: the activation, and where the rows of a step lie.

A kernel walks over its steps in the order of the loop, i = 0, 1, …; `locate` turns i into the step
t and its first row in the data. `active_at` says which elements of a tile the step concerns,
and `cut_before` which rows begin anew there.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

#: Triton compiles a kernel anew for arguments that are 1 or divisible by 16: never for these.
SIZES = ["steps", "batch", "groups", "reverse_from"]


@triton.jit
def activate(z, RELU: tl.constexpr, FAST: tl.constexpr):
    """act(z), float32. FAST: the hardware's tanh, with a relative error of at most 2^-11."""
    if RELU:
        h = tl.where(z < 0, 0.0, z)  # so written, NaN passes through
    elif FAST:
        h = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [z], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        h = tanh(z)
    return h


@triton.jit
def tanh(z):
    """tanh within 5 units of roundoff, for every z.

    Below 0.625: z + z³ P(z²), P fitted for the least relative error, 4e-9 with these five terms.
    Above: 1 - 2 / (exp(2z) + 1), where nothing cancels that matters.
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
    """dz = dh act'(z) in terms of h = act(z), float32: where h <= 0, relu passes not even NaN."""
    return tl.where(h <= 0, 0.0, dh) if RELU else dh * (1 - h * h)


@triton.jit
def confine(value, inside, H: tl.constexpr, PADDED: tl.constexpr):
    """value where there is such a unit, else 0: an infinite one, times W_hh's 0 there, is NaN."""
    return value if H == PADDED else tl.where(inside, value, 0.0)


@triton.jit
def locate(i, steps, batch, backwards, offsets):
    """Step t, and its first row in [T·B or N, G, H], of the loop's turn i; past the end, the last.

    The row is of 64 bits: T·B·G·H may pass 2^31.
    """
    i = tl.minimum(i, steps - 1)
    t = tl.where(backwards, steps - 1 - i, i)
    row = t.to(tl.int64) * batch if offsets is None else tl.load(offsets + t).to(tl.int64)
    return t, row


@triton.jit
def ends(lengths, rows, batch, steps):
    """The step at which each of the rows ends; None where all go on to the last."""
    if lengths is None:
        end = None
    else:
        end = tl.minimum(tl.load(lengths + rows, mask=rows < batch, other=0), steps).to(tl.int32)
    return end


@triton.jit
def active_at(t, end, inside):
    """Which of the elements inside the tile belong to a row that is active at step t."""
    return inside if end is None else inside & as_mask(t < end)


@triton.jit
def as_mask(condition):
    """A condition that may be a scalar, as a mask to combine with others.

    Triton's interpreter makes int32 of a scalar comparison that it broadcasts, and from 3.9 on it
    takes no such mask. The compiler folds this to the condition itself.
    """
    return tl.where(condition, True, False)


@triton.jit
def cut_before(i, steps, batch, backwards, offsets, resets, end, rows):
    """Of each row the byte that says whether it begins anew before the loop's turn i; or None.

    Turn `steps` is what comes after the last. Asked for ahead of its turn, as pre is: nothing is
    to be made of it before `cross`, which would wait for it.
    """
    if resets is None:
        cut = None
    else:
        later = tl.where(backwards, steps - i, i)  # of the two steps at the border
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
    """What of a state, or of its product, passes a border; `cut` is of `cut_before`."""
    return value if cut is None else tl.where(cut == 0, value, 0.0)


@triton.jit
def store_step(data, place, value, inside, active, end, offsets):
    """Write a step's rows: 0 where a row is inactive, nothing where packed data has no such row."""
    if offsets is not None:
        tl.store(data + place, value, mask=active)
    elif end is not None:
        tl.store(data + place, tl.where(active, value, 0.0), mask=inside)
    else:
        tl.store(data + place, value, mask=inside)
