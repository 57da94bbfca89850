"""The CUDA and Triton kernels of LSTM, GRU and leaky cells."""

from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastrnn
from fastrnn.ops.arguments import Outputs, State
from fastrnn.ops.cells.base import Step
from fastrnn.ops.reference import forward as reference_forward
from fastrnn.testing import Problem, error_scale, relative_tolerance
from tests.utils.checks import check_recurrence, check_recurrence_backward
from tools.gpu_validation.kernels import CUDA_CELLS, TRITON_CELLS

from .cases import LAYOUTS, Case, modes_of
from .device import FLOAT64, INTERPRETED, MODES, Kernel, precision, skip_unsupported

HIDDEN = (1, 15, 50, 128, 264, 512, 1000)
#: Triton compiles a kernel for every H: few values of it, up to the limits of the kernels.
HIDDEN_OF_TRITON = (31, 64, 128)
BATCHES = (1, 3, 8, 17, 40)
DIRECTIONS = ("forward", "backward")
REPEATS = 3 if INTERPRETED else 200


def _cases() -> list[Case]:
    """Return a problem for each kernel, mode and H: two of the CUDA kernels, one with resets."""
    cases = []
    for kernel in TRITON_CELLS + CUDA_CELLS:
        for mode in modes_of(kernel):
            random = Random(f"{kernel} {mode}")
            of_triton = kernel.backend == "triton"
            for i, hidden in enumerate(HIDDEN_OF_TRITON if of_triton else HIDDEN):
                for resets in (random.random() < 0.5,) if of_triton else (False, True):
                    groups = random.randint(1, 2)
                    problem = Problem(
                        *(random.choice((1, 2, 9, 30)), random.choice(BATCHES), groups, hidden),
                        layout=LAYOUTS[(i + resets) % 3],
                        activation=random.choice(("tanh", "relu")),
                        reverse_from=random.randint(0, groups),
                        dtype={**MODES, **FLOAT64}[mode].dtype,
                        resets=resets,
                        kind=kernel.kind,
                    )
                    cases.append(Case(kernel, mode, problem))
    return cases


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", _cases(), ids=str)
def test_sample(case: Case, direction: str, device: torch.device) -> None:
    check = check_recurrence if direction == "forward" else check_recurrence_backward
    with precision(case.mode) as mode:
        skip_unsupported(case.kernel, case.problem, direction)
        check(
            case.kernel.implementation, case.problem, device, mode.products, **case.kernel.options
        )


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", TRITON_CELLS[:4] + CUDA_CELLS[:6], ids=str)
def test_bits(kernel: Kernel, mode: str, direction: str, device: torch.device) -> None:
    """The same call gives the same bits every time: a difference indicates a race."""
    with precision(mode) as how:
        hidden = 200 if kernel.backend == "cuda" else 50
        problem = Problem(20, 19, 2, hidden, "lengths", dtype=how.dtype, kind=kernel.kind)
        skip_unsupported(kernel, problem, direction)
        call = _call(kernel, problem, direction, device)
        first = call()
        for _ in range(REPEATS):
            for one, other in zip(first, call(), strict=True):
                assert one is other is None or torch.equal(one, other)


def _call(kernel: Kernel, problem: Problem, direction: str, device: torch.device) -> Any:
    module: Any = kernel.implementation
    options = kernel.options
    pre, arguments = problem.inputs(device)
    if direction == "forward":
        return lambda: module.recurrence(pre, arguments, save=True, **options)
    out, h_n, c_n, gates, inner = reference_forward(pre, arguments)
    grads = Outputs(*(x if x is None else torch.ones_like(x) for x in (out, h_n, c_n)))
    saved = Step(State(out), gates, inner)
    return lambda: module.recurrence_backward(grads, saved, arguments, **options)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize(
    ("backend", "hidden"),
    [("cuda", 20), ("cuda", 128), ("cuda", 512), ("triton", 20), ("triton", 64)],
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_against_torch(
    kind: str, backend: str, hidden: int, options: dict[str, Any], device: torch.device
) -> None:
    """Compare outputs and all gradients with those of torch's layer in float64."""
    with precision("float32"), fastrnn.use_backend(backend):
        mine = getattr(fastrnn, f"Fused{kind}")(10, hidden, **options).to(device)
        truth = getattr(nn, kind)(10, hidden, **options).to(device)
        truth.load_state_dict(mine.state_dict())
        truth = truth.double()
        x = torch.randn(25, 7, 10, device=device)
        (results, gradients), (expected, exact) = _run(mine, x), _run(truth, x.double())
    bounds = relative_tolerance(torch.float32, hidden + 10, 25, 25 * 7 * hidden, mode="float32")
    for bound, ours, theirs in ((bounds[0], results, expected), (bounds[1], gradients, exact)):
        for got, wanted in zip(ours, theirs, strict=True):
            assert float((got.double() - wanted).norm()) <= 4 * bound * error_scale(wanted, 25 * 7)


def _run(layer: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    x = x.detach().requires_grad_()
    output, last = layer(x)
    outputs = [output, *(last if isinstance(last, tuple) else (last,))]
    loss = sum((t * torch.linspace(-1, 1, t.numel()).to(t).view_as(t)).sum() for t in outputs)
    gradients = torch.autograd.grad(loss, [x, *layer.parameters()])
    return [t.detach() for t in outputs], list(gradients)
