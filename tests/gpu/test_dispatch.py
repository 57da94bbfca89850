"""Which backend serves CUDA tensors."""

import warnings

import pytest
import torch

import fastrnn
from fastrnn import FusedRNN
from fastrnn.functional import recurrence
from fastrnn.ops import dispatch, reference, triton
from fastrnn.testing import Problem

from .device import INTERPRETED, KERNELS

PROBLEM = Problem(5, 3, 2, 20, "lengths", dtype=torch.float32)


@pytest.fixture(autouse=True)
def nobody_was_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_warned", set())


@pytest.mark.skipif(INTERPRETED, reason="auto takes the extension for CPU tensors")
def test_auto_takes_no_kernel_without_proof_and_says_so_once(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "RECORDS", {})
    pre, weight_hh, h0, lengths, _ = PROBLEM.tensors(device)
    with pytest.warns(RuntimeWarning, match=r"reference on 'cuda' tensors.*not yet been proven"):
        first = recurrence(pre, weight_hh, h0, lengths=lengths, reverse_from=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        second = recurrence(pre, weight_hh, h0, lengths=lengths, reverse_from=1)
    expected = reference.forward(pre, weight_hh, h0, lengths, None, *PROBLEM.options)
    for result in (first, second):
        assert torch.equal(result[0], expected[0])
        assert torch.equal(result[1], expected[1])


@pytest.mark.skipif(INTERPRETED, reason="auto takes the extension for CPU tensors")
def test_auto_takes_a_proven_kernel(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    capability = torch.cuda.get_device_capability(device)
    records = {(kernel, capability): "a test's" for kernel in KERNELS}
    monkeypatch.setattr(triton, "RECORDS", records)
    layer, x = FusedRNN(6, 20).to(device), torch.randn(9, 4, 6, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert dispatch.select(x.new_empty(4, 1, 20)) is triton
        with torch.inference_mode():
            in_place = layer(x)
        recorded = layer(x)
    with fastrnn.backend("triton"):
        named = layer(x)
    for one, other in zip((*in_place, *recorded), (*named, *named), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_triton_by_name_refuses_with_a_reason(dtype: torch.dtype, device: torch.device) -> None:
    arguments = [tensor.to(dtype) for tensor in PROBLEM.tensors(device)[:3]]
    with (
        fastrnn.backend("triton"),
        pytest.raises(RuntimeError, match=rf"float32, bfloat16 and float16, not {dtype}"),
    ):
        recurrence(*arguments)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter serves CPU tensors")
def test_triton_by_name_refuses_cpu_tensors() -> None:
    with (
        fastrnn.backend("triton"),
        pytest.raises(RuntimeError, match="CUDA tensors, not 'cpu' ones"),
    ):
        recurrence(*PROBLEM.tensors()[:3])
