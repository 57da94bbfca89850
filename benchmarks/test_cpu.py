"""FusedRNN and nn.RNN on the CPU shapes, for pytest-benchmark: `pytest benchmarks`."""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from fastrnn import FusedRNN

from .cases import CPU_SHAPES, STEPS, Shape

PROVIDERS = {"FusedRNN": FusedRNN, "nn.RNN": nn.RNN}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("shape", CPU_SHAPES, ids=str)
def test_layer(benchmark: BenchmarkFixture, shape: Shape, step: str, provider: str) -> None:
    torch.manual_seed(0)
    layer = PROVIDERS[provider](shape.I, shape.H)
    truth = nn.RNN(shape.I, shape.H).double()
    truth.load_state_dict(layer.state_dict())
    # A wrong result has no time. 20 steps are enough to see one, and quick in float64.
    x = torch.randn(min(shape.T, 20), shape.B, shape.I)
    torch.testing.assert_close(layer(x)[0].double(), truth(x.double())[0], rtol=1e-4, atol=1e-5)
    benchmark.group = f"{shape} {step}"
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark(STEPS[step](layer, shape))
