"""On an H200, `auto` selects cuDNN where the benchmark records show that it is faster."""

import pytest
import torch

from benchmarks.report import gpu, records
from fastrnn._explain import GPUS
from fastrnn.ops.backends import torch_rnn
from fastrnn.ops.backends.base import Call

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

#: In this case our kernels reach 0.81 times the speed of cuDNN. They are faster at the next H and
#: with two layers.
SLOWER = {(512, 64, 256, "float16", "training")}


@pytest.fixture(scope="module")
def lines() -> list[gpu.Line]:
    every = [records.read(p) for p in records.paths()["nvidia-h200"] if p.stem.endswith("gpu")]
    return gpu.compared_to_nn_rnn(gpu.combined(every)["rows"])


def takes_cudnn(line: gpu.Line) -> bool:
    shape, row = line.shape, line.row
    mode = "RNN_RELU" if shape.activation == "relu" else "RNN_TANH"
    sizes = shape.T, shape.B, shape.directions, shape.H
    dtype, training = DTYPES.get(row["mode"], torch.float32), row["step"] == "training"
    call = Call(mode, *sizes, dtype, torch.device("cuda"), training, GPUS["H200"])
    return torch_rnn.BACKEND.slower_reason(call) is None


def test_cudnn_is_not_selected_where_our_kernels_are_faster(lines) -> None:
    assert sum(takes_cudnn(line) for line in lines) > 50
    assert [line for line in lines if takes_cudnn(line) and line.over("nn.RNN") > 1] == []


def test_our_kernels_are_selected_only_if_at_most_6_percent_slower(lines) -> None:
    slower = {
        (line.shape.T, line.shape.B, line.shape.H, line.row["mode"], line.row["step"])
        for line in lines
        if not takes_cudnn(line) and line.over("nn.RNN") < 0.94
    }
    assert slower == SLOWER
