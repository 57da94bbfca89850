"""The precision of layers, and bitwise reproducibility."""

import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from fastrnn.ops.backends.base import precision_of

from ..utils.nn_rnn_parity import each_state, every_layer, random_hx, rnn_and_lstm, tensors

X = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([2, 5, 0])


def dense(rnn: Any, x: Tensor, hx: Any) -> list[Tensor]:
    return tensors(rnn(x, hx))


def lengths(rnn: Any, x: Tensor, hx: Any) -> list[Tensor]:
    return tensors(rnn(x, hx, lengths=LENGTHS))


def packed(rnn: Any, x: Tensor, hx: Any) -> list[Tensor]:
    return tensors(rnn(pack_padded_sequence(x, [5, 2, 1]), hx))


layouts = pytest.mark.parametrize("run", [dense, lengths, packed])


@layouts
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_layer
def test_autocast_equals_a_layer_of_that_dtype(dtype, run, ours):
    """cuDNN's layers compute in float16, whatever the autocast dtype is."""
    rnn = ours(3, 4, 2, bidirectional=True)
    hx = random_hx(rnn, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        actual = run(rnn, X, hx)
    expected = run(copy.deepcopy(rnn).to(dtype), X.to(dtype), each_state(lambda h: h.to(dtype), hx))
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, e)
    sum(tensor.float().sum() for tensor in actual).backward()
    for parameter in rnn.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@rnn_and_lstm
@pytest.mark.parametrize("steps", [2, 5], ids=["short", "fused"])
def test_autocast_skips_float64_and_respects_enabled_false(steps, ours):
    wide, rnn = ours(3, 4, dtype=torch.float64), ours(3, 4)
    x = X[:steps]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(wide(x.double())[0], wide(x.double())[0])
        inside = wide(x.double())[0]
        with torch.autocast("cpu", enabled=False):
            disabled = rnn(x)[0]
        with torch.autocast("cpu", dtype=torch.float16):
            assert rnn(x)[0].dtype == torch.float16
        assert rnn(x)[0].dtype == torch.bfloat16
    assert torch.equal(inside, wide(x.double())[0])
    assert inside.dtype == torch.float64
    assert torch.equal(disabled, rnn(x)[0])


@rnn_and_lstm
def test_autocast_recasts_weights_after_an_update(ours):
    """Autocast caches casts within a block, so the cache must notice an optimizer's step."""
    rnn = ours(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = rnn(X)[0]
        with torch.no_grad():
            rnn.weight_hh_l0.mul_(2)
        assert not torch.equal(rnn(X)[0], before)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@layouts
@pytest.mark.usefixtures("deterministic")
@every_layer
def test_deterministic_algorithms_reproduce_results_without_warnings(run, ours):
    rnn = ours(3, 17, 2, bidirectional=True, dropout=0.5)
    hx = random_hx(rnn, 3, dtype=torch.float32, requires_grad=True)
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            torch.manual_seed(3)
            found = run(rnn, X, hx)
            loss = sum(tensor.square().sum() for tensor in found)
            wanted = [*tensors(hx), *rnn.parameters()]
            results.append([*found, *torch.autograd.grad(loss, wanted)])
    assert all(map(torch.equal, *results))


#: torch's settings -> the precision of float32 on a GPU under them, the same as in cuDNN's RNN.
SETTINGS = {
    "": "tf32",
    "cudnn.allow_tf32 = False": "float32",
    "cudnn.allow_tf32 = True": "tf32",
    "cuda.matmul.allow_tf32 = True; cudnn.allow_tf32 = False": "float32",
    "fp32_precision = 'tf32'": "tf32",
    "cudnn.rnn.fp32_precision = 'ieee'": "float32",
    "cudnn.conv.fp32_precision = 'ieee'": "tf32",
    "fp32_precision = 'ieee'; cudnn.rnn.fp32_precision = 'tf32'": "tf32",
    # "none" inherits the setting of cudnn, which inherits the global one.
    "cudnn.rnn.fp32_precision = 'none'": "float32",
    "cudnn.fp32_precision = 'tf32'; cudnn.rnn.fp32_precision = 'none'": "tf32",
    "fp32_precision = 'tf32'; cudnn.rnn.fp32_precision = 'none'": "tf32",
}


if torch.__version__ >= "2.13":  # under torch 2.10 these leave an RNN, and our layers, at tf32
    SETTINGS |= {"fp32_precision = 'ieee'": "float32", "cudnn.fp32_precision = 'ieee'": "float32"}

#: Settings cannot be undone, so each is made in a fork of a process without settings.
READ = """
import json, os, sys
import torch
from fastrnn.ops.backends.base import precision_of

found = {}
for setting in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if os.fork() == 0:
        for assignment in filter(None, setting.split("; ")):
            exec("torch.backends." + assignment)
        os.write(writer, precision_of(torch.float32).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as result:
        found[setting] = result.read()
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="settings cannot be undone, so needs fork")
def test_float32_precision_follows_torch_settings():
    command = [sys.executable, "-c", READ, json.dumps(list(SETTINGS))]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == SETTINGS


def test_half_precisions_share_one_mode():
    assert precision_of(torch.bfloat16) == precision_of(torch.float16) == "half"
