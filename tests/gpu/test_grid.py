"""What is Triton's grid's alone: teams that must all run at once, and what it does where they
cannot."""

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

KERNEL = "triton.grid"  # whose tests these are, for the summary by kernel


def _call(problem: Problem, device: torch.device) -> Call:
    shape = problem.batch, problem.groups, problem.hidden
    state = torch.empty(shape, dtype=problem.dtype, device=device)
    return call_of(state, problem.steps)


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What grid is told of the room there is, call after call."""
    from fastrnn.ops.backends.triton import grid

    told = []

    def room(*arguments: Any) -> int:
        told.append(real(*arguments))
        return told[-1]

    real = grid.room
    monkeypatch.setattr(grid, "room", room)
    return told


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one program after the other")
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
    assert 0 < rooms[-1] < programs, "there was room for all: the test needs more teams"


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("mode", "hidden"), [("float32", 2900), ("tf32", 3001), ("float16", 9001)])
def test_a_state_too_large_to_stay_streams(
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
def test_every_form(
    mode: str, resident: bool, check, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of grid's configurations, whichever would have been chosen."""
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
def test_no_room_at_all(
    mode: str, check, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under MIG or MPS, where the driver may not tell: it goes step by step."""
    from fastrnn.ops.backends.triton import grid

    monkeypatch.setattr(grid, "room", lambda *_: 0)
    with precision(mode) as how:
        problem = Problem(11, 35, 2, 150, "packed", dtype=how.dtype)
        check(triton.BACKEND, problem, device, how.products, kernel="grid")


@pytest.mark.skipif(INTERPRETED, reason="the interpreter always goes step by step")
def test_step_by_step_and_at_once_agree_bitwise(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same configuration sums in the same order, whoever keeps the steps apart."""
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
