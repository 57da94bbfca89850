"""Run the CUDA kernels in the emulator on cases that random problems do not cover.

These are NaN and infinity, devices with little room, and the tilings that the plan chooses.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fastrnn._explain import GPUS
from fastrnn.ops.backends import cpu
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.testing import Problem, Tensors, tolerance
from tests.emulators.cuda import emulated
from tests.emulators.cuda.emulated import Tiling, tiling_for
from tests.emulators.cuda.server import EmulationError
from tests.ops.backends.cuda.test_emulated import ELEMENTS, kernels
from tests.utils.marks import requires_extension

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
ONES = -1  # all bits set: the NaN that the grid kernel uses as its sentinel
NAN, INFINITY = float("nan"), float("inf")


def inputs(direction: str, problem: Problem) -> dict[str, Tensor]:
    """Return the input tensors of a kernel by name, in the order of its arguments."""
    pre, weight_hh, h0, ragged = problem.tensors()
    if direction == "forward":
        return {"pre": pre, "weight_hh": weight_hh, "h0": h0}
    out, h_n = reference.forward(pre, weight_hh, h0, ragged, *problem.options)
    generator = torch.Generator().manual_seed(problem.seed)
    grads = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in (out, h_n)]
    return {
        "grad_out": grads[0],
        "grad_h_n": grads[1],
        "out": out,
        "weight_hh": weight_hh,
        "h0": h0,
    }


def poison(tensor: Tensor, problem: Problem, value: float) -> None:
    """Set batch row 0 of group 0 to a value, in the middle step if the tensor has steps.

    ONES is a bit pattern and fills the whole row; other values fill its first unit.
    """
    offsets = problem.tensors().ragged.offsets
    middle = problem.steps // 2
    if tensor.dim() == 4:
        tensor = tensor[middle]
    elif offsets is not None and tensor.shape[0] != problem.batch:
        tensor = tensor[int(offsets[middle]) :]
    row = tensor[0, 0]
    if value == ONES:
        row.view(INTEGERS[tensor.itemsize]).fill_(ONES)
    else:
        row[0] = value


@dataclasses.dataclass(frozen=True)
class Resets(Problem):
    """A problem that resets all rows, active or not, at the same steps."""

    at: tuple[int, ...] = ()

    def tensors(self, device: torch.device | str = "cpu") -> Tensors:
        tensors = super().tensors(device)
        resets = torch.zeros(self.steps, self.batch, dtype=torch.bool)
        resets[list(self.at)] = True
        lengths = tensors.ragged.lengths
        if tensors.ragged.is_packed():
            resets = resets[torch.arange(self.steps)[:, None] < lengths]
        return tensors._replace(ragged=tensors.ragged._replace(resets=resets))


def check(
    direction: str,
    problem: Problem,
    mode: str | None,
    poisoned: Mapping[str, float] | None = None,
    module: Any = emulated,
    **options: Any,
) -> None:
    """Like `checks.py`, with poisoned inputs: NaN must appear exactly where expected."""
    tensors = inputs(direction, problem)
    ragged = problem.tensors().ragged
    for name, value in (poisoned or {}).items():
        poison(tensors[name], problem, value)
    arguments = ragged, *problem.options
    actual = getattr(module, direction)(*tensors.values(), *arguments, **options)
    exact = [tensor.double() for tensor in tensors.values()]
    expected = getattr(reference, direction)(*exact, *arguments)
    terms = [tensors[name] for name in tensors if name not in ("weight_hh", "out")]
    scale = sum(biggest(tensor) for tensor in (*terms, expected[0]))
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            got.double(), wanted, rtol=0, atol=tolerance(problem, scale, mode), equal_nan=True
        )


def biggest(tensor: Tensor) -> float:
    return float(tensor.nan_to_num(0, 0, 0).abs().max()) if tensor.numel() else 0.0


def run_options(strategy: str, element: str, hidden: int, **tiling: int) -> dict[str, Any]:
    """Return the options of a run, tiled so that several blocks or splits work together."""
    result: dict[str, Any] = {"strategy": strategy, "tf32": element == "tf32"}
    if strategy == "cluster":
        blocks = 2 if hidden > 16 else 1
        result["tiling"] = tiling_for(
            strategy, hidden, ELEMENTS[element][0], **{"blocks": blocks, **tiling}
        )
    if strategy == "grid":
        tiling = {"splits": 4, "at_once": 2, **tiling}
        result["tiling"] = tiling_for(strategy, hidden, ELEMENTS[element][0], **tiling)
        result["processors"] = 3 * result["tiling"].blocks
    return result


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(INTEGERS[tensor.itemsize])


every_kernel = pytest.mark.parametrize(("strategy", "element"), kernels())
every_kernel_for_resets = pytest.mark.parametrize(("strategy", "element"), kernels(resets=True))
directions = pytest.mark.parametrize("direction", ["forward", "backward"])


@pytest.mark.slow
@every_kernel
@pytest.mark.parametrize(
    ("direction", "name"),
    [
        ("forward", "h0"),
        pytest.param("forward", "pre", marks=pytest.mark.exhaustive),
        ("backward", "grad_out"),
        pytest.param("backward", "grad_h_n", marks=pytest.mark.exhaustive),
        ("backward", "out"),  # for which relu passes the gradient unchanged
    ],
)
def test_nan(strategy: str, element: str, direction: str, name: str) -> None:
    """NaN appears exactly where expected, and causes no deadlock."""
    dtype, mode = ELEMENTS[element]
    for seed, (hidden, layout, activation, value) in enumerate(
        [(24, "dense", "relu", ONES), (18, "packed", "tanh", NAN)]
    ):
        problem = Problem(3, 3, 1, hidden, layout, activation, seed, dtype, seed)
        run = run_options(strategy, element, hidden)
        check(direction, problem, mode, {name: value}, seed=seed, **run)


# float32 operands are split into parts; for infinity, the remainder is inf - inf, that is, NaN.
@pytest.mark.parametrize(("strategy", "element"), kernels(exclude="float32"))
def test_infinity(strategy: str, element: str) -> None:
    """tanh of an infinite value is finite."""
    dtype, mode = ELEMENTS[element]
    run = run_options(strategy, element, 18)
    problem = Problem(3, 3, 1, 18, dtype=dtype)
    check("forward", problem, mode, {"h0": INFINITY}, **run)
    problem = Problem(1, 3, 1, 18, dtype=dtype)
    check("backward", problem, mode, {"grad_h_n": INFINITY}, **run)


@every_kernel
def test_relu_blocks_nan_and_infinity(strategy: str, element: str) -> None:
    """The gradient of a state of 0 is 0, even where the incoming gradient is NaN or infinite."""
    dtype, mode = ELEMENTS[element]
    problem = Problem(1, 3, 1, 18, activation="relu", dtype=dtype, seed=2)
    assert inputs("backward", problem)["out"][0, 0, 0, 0] == 0, "poison() sets a positive unit"
    for value in (NAN, INFINITY):
        check("backward", problem, mode, {"grad_out": value}, **run_options(strategy, element, 18))


@pytest.mark.slow
@every_kernel_for_resets
@directions
@pytest.mark.parametrize("reverse_from", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_resets(strategy: str, element: str, direction: str, reverse_from: int) -> None:
    """At the first step, the last, all steps, and beyond the end of rows."""
    dtype, mode = ELEMENTS[element]
    run = run_options(strategy, element, 24)
    for seed, (layout, at) in enumerate(
        [("dense", (0,)), ("dense", (4,)), ("lengths", (0, 1, 2, 3, 4)), ("packed", (0, 2, 3))]
    ):
        problem = Resets(5, 9, 1, 24, layout, "tanh", reverse_from, dtype, seed, at=at)
        check(direction, problem, mode, seed=seed, **run)


@every_kernel_for_resets
@pytest.mark.parametrize(
    ("direction", "steps", "name", "reverse_from"),
    [
        ("forward", 3, "pre", 0),
        ("forward", 3, "pre", 1),
        ("forward", 1, "h0", 1),
        ("backward", 3, "grad_out", 0),
        ("backward", 3, "grad_out", 1),
        ("backward", 1, "grad_h_n", 1),
    ],
)
def test_nan_and_infinity_do_not_cross_a_reset(
    strategy: str, element: str, direction: str, steps: int, name: str, reverse_from: int
) -> None:
    """A reset must not multiply the state by 0. `name` is poisoned in the middle step."""
    dtype, mode = ELEMENTS[element]
    activation = "relu" if direction == "forward" else "tanh"
    for value in (NAN, INFINITY):
        options = "dense", activation, reverse_from, dtype
        problem = Resets(steps, 3, 1, 18, *options, at=tuple(range(steps)))
        check(direction, problem, mode, {name: value}, **run_options(strategy, element, 18))


@every_kernel
@directions
def test_results_are_bitwise_reproducible(strategy: str, element: str, direction: str) -> None:
    """They depend neither on the schedule nor on other rows of the batch."""
    problem = Problem(3, 9, 1, 40, "lengths", dtype=ELEMENTS[element][0], seed=5)
    ragged = problem.tensors().ragged
    run = run_options(strategy, element, 40, splits=2)
    results = []
    for seed, value in enumerate([None, None, ONES]):
        tensors = inputs(direction, problem)
        for name in tensors:
            if value is not None and name not in ("weight_hh", "out"):
                poison(tensors[name], problem, value)
        arguments = *tensors.values(), ragged, *problem.options
        results.append(getattr(emulated, direction)(*arguments, seed=seed, **run))
    for first, second, poisoned in zip(*results, strict=True):
        assert torch.equal(bits(first), bits(second))
        rows = (..., slice(1, None), slice(None), slice(None))  # only batch row 0 is poisoned
        assert torch.equal(bits(first[rows]), bits(poisoned[rows]))
        assert not torch.equal(bits(first), bits(poisoned))


@every_kernel
@directions
def test_packed_rows_beyond_all_sequences(strategy: str, element: str, direction: str) -> None:
    """The backend zeroes these rows. Kernels do not write them: here they keep their poison.

    See server.cpp.
    """
    problem = Problem(2, 5, 1, 20, "packed", dtype=ELEMENTS[element][0], seed=2)
    ragged = problem.tensors().ragged
    tensors = inputs(direction, problem)
    count = next(iter(tensors.values())).shape[0]
    for name in {"pre", "grad_out", "out"} & tensors.keys():
        beyond = torch.full((3, *tensors[name].shape[1:]), NAN, dtype=problem.dtype)
        tensors[name] = torch.cat([tensors[name], beyond])
    arguments = *tensors.values(), ragged, *problem.options
    run = run_options(strategy, element, 20)
    result, _ = getattr(emulated, direction)(*arguments, **run)
    assert result[:count].isfinite().all()
    assert (result[count:].view(torch.int16) == 0x7FF8).all()


@directions
@pytest.mark.parametrize(("room", "at_once"), [(1, 1), (1, 8), (2, 8), (8, 2)])
def test_teams_run_in_waves(direction: str, room: int, at_once: int) -> None:
    """As many of 5 tiles run at once as the plan allows and as fit on the device."""
    problem = Problem(3, 37, 1, 40, "lengths", dtype=torch.bfloat16)
    run = run_options("grid", "bfloat16", 40, at_once=at_once)
    run["processors"] = room * run["tiling"].blocks + 2
    check(direction, problem, "half", **run)


@directions
def test_a_team_that_does_not_fit_on_the_device_raises(direction: str) -> None:
    problem = Problem(2, 3, 1, 40, dtype=torch.bfloat16)
    run = run_options("grid", "bfloat16", 40) | {"processors": 2}
    with pytest.raises(EmulationError, match="needs 3 blocks at once, more than the device has"):
        check(direction, problem, "half", **run)


@pytest.mark.parametrize("strategy", ["cluster", "grid"])
@pytest.mark.parametrize("element", ["bfloat16", "float32"])
@directions
def test_unsupported_tilings_raise(strategy: str, direction: str, element: str) -> None:
    dtype, mode = ELEMENTS[element]
    problem = Problem(2, 9, 1, 40, dtype=dtype)
    fitting = run_options(strategy, element, 40, rows=16)
    check(direction, problem, mode, **fitting)
    for changed in [
        {"resident": 5},
        {"rows": 33},
        {"splits": 32},
        {"streamed": fitting["tiling"].streamed + 1},
    ]:
        run = fitting | {"tiling": dataclasses.replace(fitting["tiling"], **changed)}
        with pytest.raises(EmulationError, match="does not support this tiling"):
            check(direction, problem, mode, **run)


@pytest.mark.parametrize("strategy", ["cluster", "grid"])
@directions
@pytest.mark.parametrize("changed", [{"blocks": 1}, {"blocks": 2}, {"splits": 1, "streamed": 0}])
def test_tilings_too_small_for_the_weights_raise(
    strategy: str, direction: str, changed: dict[str, int]
) -> None:
    problem = Problem(1, 3, 1, 70, dtype=torch.float32)
    run = run_options(strategy, "float32", 70, splits=2)
    run["tiling"] = dataclasses.replace(run["tiling"], m_tiles=1, **changed)
    with pytest.raises(EmulationError, match="does not support this tiling"):
        check(direction, problem, "float32", **run)


@directions
def test_a_cluster_of_16_blocks(direction: str) -> None:
    problem = Problem(3, 2, 1, 256, "lengths", dtype=torch.bfloat16)
    run = run_options("cluster", "bfloat16", 256, blocks=16)
    check(direction, problem, "half", running=16, **run)


@requires_extension
@pytest.mark.parametrize("device", ["H100", pytest.param("A100", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    "element", ["bfloat16", pytest.param("tf32", marks=pytest.mark.slow), "float32"]
)
@directions
def test_tilings_of_the_plan(device: str, element: str, direction: str) -> None:
    dtype, mode = ELEMENTS[element]
    module, choose = cpu.EXTENSION.module, random.Random(f"{device} {element} {direction}")
    device_of_plan = module.Device(*GPUS[device][1:])
    for _ in range(2):
        batch, hidden = choose.choice([1, 3, 9, 20]), choose.choice([1, 17, 40, 64, 96])
        problem = Problem(2, batch, choose.choice([1, 2]), hidden, "lengths", dtype=dtype)
        sizes = problem.steps, batch, problem.groups, hidden
        _, plans = module.plans(device_of_plan, mode, direction == "backward", *sizes)
        for strategy in ("cluster", "grid"):
            plan = plans[strategy]
            if isinstance(plan, str):
                assert (device, strategy) == ("A100", "cluster"), plan
                continue
            names = {field.name for field in dataclasses.fields(Tiling)} - {"at_once"}
            chosen = {name: getattr(plan.tiling, name) for name in names}
            tiling = Tiling(at_once=plan.at_once, **chosen)
            run = run_options(strategy, element, hidden) | {
                "tiling": tiling,
                "processors": GPUS[device].processors,
            }
            check(direction, problem, mode, running=16, **run)
