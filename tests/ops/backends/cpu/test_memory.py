"""The operators do not leak memory."""

import ctypes
import gc
import sys
from collections.abc import Callable

import pytest
import torch

from fastrnn import FusedRNN
from fastrnn.testing import Problem
from tests.utils.marks import requires_extension

pytestmark = [
    requires_extension,
    pytest.mark.skipif(sys.platform != "linux", reason="uses glibc's mallinfo2"),
]

OPERATORS = torch.ops.fastrnn
PROBLEM = Problem(10, 4, 2, 16, resets=True, dtype=torch.float32)
PACKED = Problem(10, 4, 2, 16, "packed", dtype=torch.float32)


def in_use() -> int:
    """Return the bytes that malloc has allocated and not freed."""

    class Info(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t)
            for name in (
                *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
                *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
            )
        ]

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("this C library has no mallinfo2")
    libc.mallinfo2.restype = Info
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def calls() -> dict[str, Callable[[], object]]:
    """Return calls of all operators that the extension implements."""
    found: dict[str, Callable[[], object]] = {}
    for problem in (PROBLEM, PACKED):
        pre, arguments = problem.inputs()
        given = pre, *arguments, False
        found[f"recurrence {problem.layout}"] = lambda g=given: OPERATORS.recurrence(*g)
        grads = pre, arguments.h0, None, pre, None, None, *arguments
        found[f"backward {problem.layout}"] = lambda g=grads: OPERATORS.recurrence_backward(*g)
    pre, arguments = PROBLEM.inputs()
    found["recurrence.out"] = lambda: OPERATORS.recurrence.out(pre, *arguments, out=pre)
    x, weight, bias = torch.randn(10, 8), torch.randn(16, 8), torch.randn(16)
    found["linear"] = lambda: OPERATORS.linear(x, weight, bias)
    layer, data = FusedRNN(8, 16, 2), torch.randn(5, 2, 8)

    def train() -> None:
        layer(data)[0].sum().backward()
        layer.zero_grad()

    found["a layer's training step"] = train
    return found


CALLS = calls()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("count", [4000, pytest.param(100000, marks=pytest.mark.exhaustive)])
def test_calls_do_not_leak(name: str, count: int) -> None:
    """Takes the best of three rounds: a cache grows in one of them, a leak in all.

    Threads of the test runner may allocate a few hundred bytes in each round, so there are enough
    calls for half a byte of each to be more. A block of malloc has at least 32 bytes.
    """
    call = CALLS[name]
    growth = []
    gc.freeze()  # a collection need not visit the objects of other tests
    for _ in range(3):
        gc.collect()
        before = in_use()
        for _ in range(count):
            call()
        gc.collect()
        growth.append(in_use() - before)
    gc.unfreeze()
    assert min(growth) < count / 2


def test_schemas_take_no_strings() -> None:
    """torch's stable ABI never frees a string argument."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastrnn::")]
    assert {"fastrnn::recurrence", "fastrnn::recurrence_by", "fastrnn::linear"} <= set(names)
    for name in names:
        name, _, overload = name.removeprefix("fastrnn::").partition(".")
        schema = getattr(getattr(OPERATORS, name), overload or "default")._schema
        assert not [a.name for a in schema.arguments if "str" in str(a.type)], name
