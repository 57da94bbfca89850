"""Hypothesis strategies for random recurrences."""

from hypothesis import strategies as st

from fastrnn.testing import Problem

# Sizes around vector and tile widths, where kernels tend to fail, and all others up to 70.
SIZES = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65]) | st.integers(1, 70)


@st.composite
def problems(draw: st.DrawFn, **fixed: object) -> Problem:
    """Draw small problems of nn.RNN, of which many run quickly; fields in `fixed` are not drawn."""
    groups = draw(st.integers(1, 3))
    drawn = {
        "steps": draw(st.integers(1, 12)),
        "batch": draw(st.integers(0, 20)),
        "groups": groups,
        "hidden": draw(SIZES),
        "layout": draw(st.sampled_from(["dense", "lengths", "packed"])),
        "activation": draw(st.sampled_from(["tanh", "relu"])),
        "reverse_from": draw(st.integers(0, groups)),
        "resets": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
    }
    return Problem(**{**drawn, **fixed})  # type: ignore[arg-type]
