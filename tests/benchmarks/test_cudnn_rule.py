"""On an H200, `auto` uses cuDNN where the records show that it is faster."""

import pytest
import torch

from benchmarks.report import gpu, records
from fastrnn._explain import GPUS
from fastrnn.ops.backends import torch_rnn
from fastrnn.ops.backends.base import Call

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

#: T, B and H of a case with a ratio of 0.81. At the next H and with two layers we are faster.
SLOWER = {(512, 64, 256, "float16", "training")}


@pytest.fixture(scope="module")
def compared() -> list[gpu.Line]:
    every = [records.read(p) for p in records.paths()["nvidia-h200"] if p.stem.endswith("gpu")]
    return gpu.compared_to_nn_rnn(gpu.combined(every)["rows"])


def uses_cudnn(one: gpu.Line) -> bool:
    shape, row = one.shape, one.row
    mode = "RNN_RELU" if shape.activation == "relu" else "RNN_TANH"
    sizes = shape.T, shape.B, shape.directions, shape.H
    dtype, training = DTYPES.get(row["mode"], torch.float32), row["step"] == "training"
    call = Call(mode, *sizes, dtype, torch.device("cuda"), training, GPUS["H200"])
    return torch_rnn.BACKEND.slower_reason(call) is None


def test_cudnn_is_not_used_where_our_kernels_are_faster(compared) -> None:
    assert sum(uses_cudnn(one) for one in compared) > 50
    assert [one for one in compared if uses_cudnn(one) and one.over("nn.RNN") > 1] == []


def test_our_kernels_are_used_unless_they_are_slower_by_more_than_6_percent(compared) -> None:
    slower = {
        (one.shape.T, one.shape.B, one.shape.H, one.row["mode"], one.row["step"])
        for one in compared
        if not uses_cudnn(one) and one.over("nn.RNN") < 0.94
    }
    assert slower == SLOWER
