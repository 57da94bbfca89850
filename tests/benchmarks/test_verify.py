"""The verification accepts correct results of every shape, and rejects wrong ones."""

import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import baselines, runner, verify
from benchmarks.baselines import Provider, openvino_model
from benchmarks.baselines.nn_rnn import NnRnn
from benchmarks.baselines.ours import Fastrnn
from benchmarks.cells import CELLS
from benchmarks.process import run
from benchmarks.shapes import STEPS, Case, Shape
from benchmarks.workload import Workload
from fastrnn.testing import UNIT_ROUNDOFF, error_scale, relative_tolerance

#: Without torch.compile, which takes seconds to compile; `--verify-only` covers it.
PROVIDERS = {
    provider.name: provider
    for provider in baselines.select("all", "cpu")[0]
    if provider.name != "torch.compile"
}

MODES = ("float32", "bfloat16", "float16")

shapes = st.builds(
    lambda kind, **sizes: Shape(cell=kind[0], activation=kind[1], **sizes),
    st.sampled_from((("rnn", "tanh"), ("rnn", "relu"), ("lstm", "tanh"), ("gru", "tanh"))),
    T=st.integers(1, 12),
    B=st.integers(1, 9),
    I=st.integers(1, 9),
    H=st.integers(1, 20),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    packed=st.booleans(),
)
recurrences = st.builds(
    Shape,
    T=st.integers(1, 12),
    B=st.integers(1, 9),
    I=st.just(1),
    H=st.integers(1, 20),
    groups=st.integers(1, 3),
    activation=st.sampled_from(("tanh", "relu")),
)
cases = st.one_of(
    st.builds(
        Case,
        st.just("some"),
        st.just(scope),
        shape,
        st.sampled_from(MODES),
        st.sampled_from(STEPS),
    )
    for scope, shape in (("layer", shapes), ("recurrence", recurrences))
)


@pytest.mark.parametrize("name", [name for name, one in PROVIDERS.items() if not one.compiles])
@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_every_provider_computes_random_cases_correctly(name: str, case: Case) -> None:
    provider = PROVIDERS[name]
    if provider.unsupported_reason(case, "cpu") is None:
        with runner.verified_call(provider, Workload(case)):
            pass


#: The options of the shapes below.
TRAITS: tuple[dict[str, Any], ...] = (
    {},
    {"packed": True},
    {"layers": 2, "bidirectional": True},
    {"layers": 2, "bidirectional": True, "packed": True},
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cell"),
    [
        pytest.param(
            *(name, cell),
            marks=pytest.mark.exhaustive if PROVIDERS[name].compiles and cell == "gru" else (),
        )
        for name, cell in product(PROVIDERS, CELLS)
    ],
)
def test_every_provider_computes_every_cell_correctly(name: str, cell: str) -> None:
    provider = PROVIDERS[name]
    # A compilation of JAX takes most of a second.
    few = provider.compiles
    modes = MODES[: 2 if cell == "rnn" else 1] if few else MODES
    for traits in ({"bidirectional": True},) if few else TRAITS:
        for mode, step in product(modes, STEPS):
            case = Case("some", "layer", Shape(7, 4, 5, 6, cell=cell, **traits), mode, step)
            if provider.unsupported_reason(case, "cpu") is None:
                with runner.verified_call(provider, Workload(case)):
                    pass


def test_providers_of_every_cell() -> None:
    def names(cell: str, step: str, **traits: Any) -> set[str]:
        case = Case("lstm", "layer", Shape(7, 4, 5, 6, cell=cell, **traits), "float32", step)
        return {provider.name for provider in baselines.select_for(case, "most", "cpu")[0]}

    for cell, layer in (("rnn", "nn.RNN"), ("lstm", "nn.LSTM"), ("gru", "nn.GRU")):
        every = {"fastrnn", layer, "eager loop", "onnxruntime", "openvino", "jax scan"}
        with_packages = set(PROVIDERS)
        assert names(cell, "inference") == every & with_packages
        assert names(cell, "training") == (every - {"onnxruntime", "openvino"}) & with_packages
        packed = {"fastrnn", layer, "onnxruntime", "openvino"}
        assert names(cell, "inference", packed=True) == packed & with_packages


def test_libraries_have_the_threads_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    onnxruntime = pytest.importorskip("onnxruntime")
    seen: dict[str, int] = {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    workload = Workload(Case("some", "layer", Shape(3, 2, 4, 5), "float32", "inference"))
    core = openvino.Core()

    class Core:
        def compile_model(self, model: Any, device: str, options: dict[str, Any]) -> Any:
            compiled = core.compile_model(model, device, options)
            seen["openvino"] = compiled.get_property("INFERENCE_NUM_THREADS")
            return compiled

        read_model = core.read_model

    class Session:
        def __init__(self, model: bytes, options: Any, providers: list[str]) -> None:
            seen["onnxruntime"] = options.intra_op_num_threads

    monkeypatch.setattr(openvino_model, "_core", Core)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    for name in ("openvino", "onnxruntime"):
        PROVIDERS[name].prepare(workload)
    assert seen == {"openvino": 1, "onnxruntime": 1}


#: Print the threads of a process after JAX has started, then start it with another number.
START = """
from pathlib import Path
from benchmarks.baselines import jax_scan
jax_scan._start({threads})
print(len(list(Path("/proc/self/task").iterdir())), flush=True)  # before the error
jax_scan._start(5)
"""


@pytest.mark.exhaustive
def test_jax_is_started_with_the_threads_of_torch() -> None:
    pytest.importorskip("jax")
    counts = {}
    for threads in (1, 3):
        status, said = run([sys.executable, "-c", START.format(threads=threads)], 60)
        first, *_, last = said.strip().splitlines()
        assert status == 1, said
        assert last == "RuntimeError: JAX keeps the number of threads that it was started with"
        counts[threads] = int(first)
    # Two more in a pool; older versions of JAX have two pools.
    assert counts[3] - counts[1] in (2, 4)


LAYER = Shape(20, 6, 8, 16)


#: Ways in which a tensor of the results may be wrong.
MISTAKES: dict[str, Callable[[Tensor], Tensor]] = {
    "one column is wrong": lambda t: t.detach().index_fill(-1, torch.tensor([0]), 100.0),
    "shifted by a step": lambda t: t.detach().roll(1, 0),
    "half is zero": lambda t: t.detach().index_fill(0, torch.arange(len(t) // 2), 0),
    "doubled": lambda t: 2 * t.detach(),
    "nan": lambda t: t.detach().index_fill(0, torch.tensor([0]), float("nan")),
    "float64": lambda t: t.detach().double(),
    "another shape": lambda t: t.detach()[:-1],
}


@pytest.mark.parametrize("which", range(6), ids=["out", "x", "w_ih", "w_hh", "b_ih", "b_hh"])
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("mode", ["float32", "bfloat16", "float16"])
def test_a_wrong_result_is_rejected(mode: str, mistake: str, which: int) -> None:
    workload = Workload(Case("some", "layer", LAYER, mode, "training"))
    results = NnRnn().prepare(workload)(workload.inputs[0])
    verify.check(results, workload)
    results[which] = MISTAKES[mistake](results[which])
    with pytest.raises(AssertionError):
        verify.check(results, workload)


def test_the_scale_of_a_sum_that_cancels_is_that_of_its_terms() -> None:
    """The gradient of a weight with H = 1, summed in bfloat16 step by step, as autograd does."""
    steps, rows = 64, 4
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(steps, rows, generator=generator, dtype=torch.float64)
    terms -= terms.mean()  # the sum is zero
    total = torch.zeros((), dtype=torch.bfloat16)
    for row in terms:
        total = total + row.sum().bfloat16()
    exact = terms.sum().reshape(1, 1)
    error = float((total.double() - exact).norm())
    _, bound = relative_tolerance(torch.bfloat16, 1, steps, steps * rows)
    assert error > UNIT_ROUNDOFF[torch.bfloat16] * exact.norm()
    assert error <= bound * error_scale(exact, steps * rows, 1.0)
    # Without cancellation the scale is that of the sum.
    straight = terms.abs().sum().reshape(1, 1)
    assert error_scale(straight, steps * rows, 1.0) < 1.2 * straight.norm()


def test_a_gradient_that_cancels_is_accepted() -> None:
    """A weight's gradient sums 2000 rows: its error is that of the terms, even if they cancel."""
    workload = Workload(Case("some", "recurrence", Shape(20, 100, 1, 1), "bfloat16", "training"))
    results = [t.to(torch.bfloat16) for t in workload.expected]
    error = UNIT_ROUNDOFF[torch.bfloat16] * (20 * 2000) ** 0.5  # √20 roundings of each term
    workload.expected[2].zero_()
    results[2].fill_(error)
    verify.check(results, workload)
    results[2].fill_(10 * error)
    with pytest.raises(AssertionError, match="gradient 2"):
        verify.check(results, workload)


def test_a_missing_result_is_rejected() -> None:
    workload = Workload(Case("some", "layer", LAYER, "float32", "training"))
    results = NnRnn().prepare(workload)(workload.inputs[0])
    with pytest.raises(AssertionError, match="5 results instead of 6"):
        verify.check(results[:-1], workload)


def test_float32_computed_in_bfloat16_is_rejected() -> None:
    workload = Workload(Case("some", "layer", LAYER, "float32", "inference"))
    half = workload.layer.bfloat16()
    out = half(workload.inputs[0].leaf.bfloat16())[0].float()
    workload.layer.float()
    with pytest.raises(AssertionError, match="the output is"):
        verify.check([out], workload)


def test_calls_cycle_through_different_inputs() -> None:
    workload = Workload(Case("some", "layer", LAYER, "float32", "training"))
    inputs = workload.cycle_inputs()
    seen = [next(inputs) for _ in range(5)]
    assert seen[4] is seen[0]
    assert not any(torch.equal(seen[0].leaf, other.leaf) for other in seen[1:4])
    assert [workload._num_inputs(size) for size in (1, 2**29, 2**31)] == [4, 2, 1]
    # On a GPU they exceed L2, if their size allows it.
    workload.device = torch.device("cuda")
    assert [workload._num_inputs(size) for size in (1, 2**20, 2**24, 2**27, 2**29, 2**31)] == [
        *(64, 64, 8, 4, 2, 1)
    ]


class Wrong(Fastrnn):
    """Return the result of other inputs."""

    name = "fastrnn.wrong"

    def __init__(self) -> None:
        super().__init__()
        self.name = "fastrnn.wrong"

    def prepare(self, workload: Workload) -> Callable[..., list[Tensor]]:
        call = super().prepare(workload)
        return lambda inputs: call(workload.inputs[1])


class Failing(NnRnn):
    """Raise in `prepare`."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "failing"

    def prepare(self, workload: Workload) -> Callable[..., list[Tensor]]:
        raise RuntimeError("out of memory")


def test_a_wrong_result_is_not_timed() -> None:
    case = Case("some", "layer", LAYER, "float32", "inference")
    providers: list[Provider] = [NnRnn(), Wrong(), Failing(), Fastrnn()]
    found = runner.measure_times(case, providers, "cpu", 0.01)
    assert set(found.times) == {"nn.RNN", "fastrnn"}
    assert "the output is" in found.wrong["fastrnn.wrong"]
    assert found.wrong["failing"] == "RuntimeError: out of memory"
    assert len({len(times.ms) for times in found.times.values()}) == 1


def test_a_long_call_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_CALL_SECONDS", 0.0)
    case = Case("some", "layer", LAYER, "float32", "inference")
    found = runner.measure_times(case, [NnRnn()], "cpu", 0.01)
    assert found.times == {}
    assert found.too_long["nn.RNN"] > 0


def test_a_call_with_a_long_estimate_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_FLOPS_WITHOUT_ESTIMATE", 0.0)
    steps: list[int] = []

    class Counting(NnRnn):
        def prepare(self, workload: Workload) -> Callable[..., list[Tensor]]:
            steps.append(workload.steps)
            return super().prepare(workload)

    case = Case("some", "layer", Shape(100, 6, 8, 16), "float32", "inference")
    assert runner.measure_times(case, [Counting()], "cpu", 0.01).times
    assert steps == [10, 100]
    monkeypatch.setattr(runner, "MAX_CALL_SECONDS", 0.0)
    assert runner.measure_times(case, [Counting()], "cpu", 0.01).too_long["nn.RNN"] > 0
    assert steps == [10, 100, 10]


def test_a_cuda_error_raises_device_lost() -> None:
    with pytest.raises(runner.DeviceLost, match="some kernel: CUDA error: an illegal"):
        runner.raise_if_lost(RuntimeError("CUDA error: an illegal access"), "some kernel")
    runner.raise_if_lost(RuntimeError("out of memory"), "some kernel")
