"""Run the compiled Triton kernels of cells that save gates in the emulator of tests/emulators/ptx.

test_emulated.py does the same for nn.RNN's cells, and says what this covers.
"""

import functools
import os

import pytest
import torch

pytest.importorskip("triton")
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

from fastrnn.ops.backends import triton
from fastrnn.ops.backends.triton import rows_cells, single_cta_cells
from fastrnn.testing import Problem
from tests.emulators.ptx import Emulated
from tests.utils.checks import RECURRENCE_CHECKS

SIZES_OF = triton.sizes_of
H100 = {"capability": (9, 0), "shared": 232448, "processors": 132}
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
exhaustive = functools.partial(pytest.param, marks=pytest.mark.exhaustive)


@pytest.fixture(autouse=True)
def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulate every launch."""
    monkeypatch.setattr(triton, "sizes_of", lambda call: SIZES_OF(call)._replace(**H100))
    for module in (rows_cells, single_cta_cells):
        for direction in ("forward", "backward"):
            monkeypatch.setattr(module, direction, Emulated(getattr(module, direction)))


def name(value: object) -> str | None:
    """Return the pytest ID of a problem."""
    if not isinstance(value, Problem):
        return None
    shape = f"{value.steps}-{value.batch}-{value.groups}-{value.hidden}"
    resets = "-resets" if value.resets else ""
    return f"{value.kind}-{shape}-{value.layout}-{value.activation}{resets}"


# float32, in which `single_cta` multiplies three times in tf32, has the tightest bounds: the table
# leaves it to `rows`. In half precision a wrong W_hh of an LSTM or a GRU may be within the bounds.
@pytest.mark.parametrize("check", RECURRENCE_CHECKS)
@pytest.mark.parametrize(
    ("kernel", "mode", "problem"),
    [
        ("rows", "float32", Problem(4, 2, 2, 30, "packed", "tanh", 1, F32, 0, True, "LSTM")),
        ("rows", "half", Problem(3, 2, 1, 20, "dense", "tanh", 0, BF16, 0, True, "LEAKY_PRE")),
        ("single_cta", "float32", Problem(4, 5, 2, 17, "packed", "tanh", 1, F32, 0, True, "GRU")),
        ("single_cta", "half", Problem(3, 18, 1, 40, "lengths", "relu", 0, F16, 0, True, "LEAKY")),
        slow("rows", "float32", Problem(4, 2, 2, 33, "lengths", "tanh", 1, F32, 0, True, "GRU")),
        exhaustive("rows", "half", Problem(4, 2, 1, 64, "packed", "tanh", 0, BF16, 0, True, "GRU")),
        slow("rows", "half", Problem(4, 2, 2, 100, "lengths", "relu", 1, F16, 0, True, "LEAKY")),
        exhaustive("rows", "half", Problem(1, 1, 1, 1, "dense", "tanh", 0, BF16, kind="LSTM")),
        slow("rows", "tf32", Problem(3, 2, 2, 61, "dense", "tanh", 1, F32, 0, True, "LSTM")),
        exhaustive(
            "single_cta", "float32", Problem(4, 18, 1, 33, "lengths", "tanh", 0, F32, kind="LSTM")
        ),
        slow(
            "single_cta", "half", Problem(4, 5, 2, 61, "packed", "tanh", 1, BF16, 0, True, "LSTM")
        ),
        exhaustive(
            "single_cta", "half", Problem(3, 3, 1, 127, "dense", "tanh", 1, BF16, 0, True, "LSTM")
        ),
        exhaustive(
            "single_cta", "half", Problem(3, 3, 1, 128, "packed", "tanh", 0, F16, 0, True, "GRU")
        ),
        exhaustive(
            "single_cta", "tf32", Problem(3, 17, 1, 64, "dense", "tanh", 1, F32, 0, True, "GRU")
        ),
        slow(
            "single_cta", "tf32", Problem(3, 17, 1, 127, "packed", "relu", 1, F32, kind="LEAKY_PRE")
        ),
    ],
    ids=name,
)
def test_kernels(check, kernel: str, mode: str, problem: Problem) -> None:
    with torch.backends.cudnn.flags(allow_tf32=mode == "tf32"):
        check(triton.BACKEND, problem, kernel=kernel, mode=mode)
