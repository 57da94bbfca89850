"""Tests specific to Triton's grid kernel: teams that must run concurrently, and its fallbacks."""

from typing import Any

import pytest
import torch

from fastrnn.ops.backends import triton
from fastrnn.ops.backends.base import Call
from fastrnn.testing import Problem
from tests.utils.checks import CHECKS, biggest
from tools.gpu_validation.kernels import call_of

from .device import INTERPRETED, MODES, precision

pytest.importorskip("triton")

KERNEL = "triton.grid"  # the kernel in the summary


def _call(problem: Problem, device: torch.device) -> Call:
    shape = problem.batch, problem.groups, problem.hidden
    state = torch.empty(shape, dtype=problem.dtype, device=device)
    return call_of(state, problem.steps)


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the values that grid.room returns, call after call."""
    from fastrnn.ops.backends.triton import grid

    returned = []

    def room(*arguments: Any) -> int:
        returned.append(real(*arguments))
        return returned[-1]

    real = grid.room
    monkeypatch.setattr(grid, "room", room)
    return returned


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs programs sequentially")
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
def test_more_teams_than_fit(mode: str, check, rooms: list[int], device: torch.device) -> None:
    from fastrnn.ops.backends.triton import grid

    problem = Problem(8, 4500, 1, 1024, "lengths", dtype=MODES[mode].dtype)
    with precision(mode) as how:
        check(triton.BACKEND, problem, device, how.products, kernel="grid")
        sizes = triton.sizes_of(_call(problem, device))
    *_, form = grid.configurations(sizes)
    programs = -(-problem.hidden // form["COLS"]) * -(-problem.batch // form["ROWS"])
    assert 0 < rooms[-1] < programs, "all teams fit: the test needs more"


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("mode", "hidden"), [("float32", 2900), ("tf32", 3001), ("float16", 9001)])
def test_a_state_too_large_for_residency_is_streamed(
    mode: str, hidden: int, check, device: torch.device
) -> None:
    if INTERPRETED:
        hidden //= 10
    with precision(mode) as how:
        problem = Problem(5, 3, 1, hidden, "packed", dtype=how.dtype)
        check(triton.BACKEND, problem, device, how.products, kernel="grid")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "streamed"])
@pytest.mark.parametrize("mode", ["float32", "tf32", "bfloat16", "float16"])
def test_every_configuration(
    mode: str, resident: bool, check, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check each of grid's configurations, regardless of its choice."""
    from fastrnn.ops.backends.triton import grid

    if INTERPRETED and mode == "bfloat16":
        pytest.skip("Triton's interpreter computes bfloat16 products wrongly")
    problem = Problem(9, 70, 2, 200, "lengths", dtype=MODES[mode].dtype, reverse_from=1)
    every = grid.configurations
    with precision(mode) as how:
        sizes = triton.sizes_of(_call(problem, device))
        forms = [form for form in every(sizes) if form["RESIDENT"] == resident]
        assert forms
        for form in forms:
            monkeypatch.setattr(grid, "configurations", lambda _, only=form: [only])
            check(triton.BACKEND, problem, device, how.products, kernel="grid")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mode", ["float32", "float16"])
def test_no_room_falls_back_to_single_steps(
    mode: str, check, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room, as under MIG or MPS when the driver reports none, grid launches each step."""
    from fastrnn.ops.backends.triton import grid

    monkeypatch.setattr(grid, "room", lambda *_: 0)
    with precision(mode) as how:
        problem = Problem(11, 35, 2, 150, "packed", dtype=how.dtype)
        check(triton.BACKEND, problem, device, how.products, kernel="grid")


@pytest.mark.skipif(INTERPRETED, reason="the interpreter always runs step by step")
def test_single_steps_and_the_persistent_kernel_agree_bitwise(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration sums in the same order, however its steps are synchronized."""
    from fastrnn.ops.backends.triton import grid

    problem = Problem(40, 35, 2, 300, "lengths", dtype=torch.float32)
    arguments = (*problem.tensors(device), *problem.options)
    with precision("float32"):
        sizes = triton.sizes_of(_call(problem, device))
        best = next(iter(grid.configurations(sizes)))
        monkeypatch.setattr(grid, "configurations", lambda _: [best])
        at_once = triton.BACKEND.forward(*arguments, kernel="grid")
        assert biggest(at_once[0]) > 0
        monkeypatch.setattr(grid, "room", lambda *_: 0)
        stepwise = triton.BACKEND.forward(*arguments, kernel="grid")
    for one, other in zip(at_once, stepwise, strict=True):
        assert torch.equal(one, other)
