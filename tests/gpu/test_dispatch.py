"""Backend selection for CUDA tensors."""

import warnings

import pytest
import torch

import fastrnn
from fastrnn import FusedRNN
from fastrnn.functional import recurrence
from fastrnn.ops.backends import cuda, dispatch, triton
from fastrnn.ops.backends.reference import BACKEND as reference
from fastrnn.testing import Problem
from tools.gpu_validation.kernels import call_of

from .device import BACKENDS, INTERPRETED, TRITON

PROBLEM = Problem(5, 3, 2, 20, "lengths", dtype=torch.float32)


@pytest.fixture(autouse=True)
def reset_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_warned", set())


@pytest.mark.skipif(INTERPRETED, reason="auto selects the extension for CPU tensors")
def test_auto_skips_unverified_kernels_and_warns_once(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cuda, triton):
        monkeypatch.setattr(module, "VERIFIED", set())
    pre, weight_hh, h0, ragged = PROBLEM.tensors(device)
    with pytest.warns(RuntimeWarning, match=r"reference on 'cuda' tensors.*not been verified"):
        first = recurrence(pre, weight_hh, h0, lengths=ragged.lengths, reverse_from=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        second = recurrence(pre, weight_hh, h0, lengths=ragged.lengths, reverse_from=1)
    expected = reference.forward(pre, weight_hh, h0, ragged, *PROBLEM.options)
    for result in (first, second):
        assert torch.equal(result[0], expected[0])
        assert torch.equal(result[1], expected[1])


def _mark_verified(backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark this backend's kernels as verified, and those of the other backends as unverified."""
    capability = torch.cuda.get_device_capability(device)
    verified: dict[str, set] = {
        "triton": {(kernel.name, capability) for kernel in TRITON},
        "cuda": {capability},
    }
    for module, name in ((triton, "triton"), (cuda, "cuda")):
        monkeypatch.setattr(module, "VERIFIED", verified[name] if name == backend else set())


@pytest.mark.skipif(INTERPRETED, reason="auto selects the extension for CPU tensors")
@pytest.mark.parametrize("backend", BACKENDS)
def test_auto_selects_a_verified_kernel(
    backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mark_verified(backend, device, monkeypatch)
    layer, x = FusedRNN(6, 200).to(device), torch.randn(300, 4, 6, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        call = call_of(x.new_empty(4, 1, 200), 300)
        assert dispatch.for_recurrence(call) is dispatch.BACKENDS[backend]
        with torch.inference_mode():
            in_place = layer(x)
        recorded = layer(x)
    with fastrnn.use_backend(backend):
        named = layer(x)
    for one, other in zip((*in_place, *recorded), (*named, *named), strict=True):
        assert torch.equal(one, other)


def _raises_by_name(backend: str, dtype: torch.dtype, device: torch.device, reason: str) -> None:
    """Check that the backend, selected by name, raises with this reason."""
    arguments = [tensor.to(dtype) for tensor in PROBLEM.tensors(device)[:3]]
    with fastrnn.use_backend(backend), pytest.raises(RuntimeError, match=reason):
        recurrence(*arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_triton_by_name_raises_with_a_reason(dtype: torch.dtype, device: torch.device) -> None:
    _raises_by_name("triton", dtype, device, rf"float32, bfloat16 and float16, not {dtype}")


@pytest.mark.parametrize("backend", ["cuda"])
def test_cuda_by_name_raises_with_a_reason(backend: str, device: torch.device) -> None:
    _raises_by_name(backend, torch.complex64, device, r"do not support torch\.complex64")


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on CPU tensors")
@pytest.mark.parametrize("backend", BACKENDS)
def test_by_name_raises_for_cpu_tensors(backend: str) -> None:
    cpu = torch.device("cpu")
    _raises_by_name(backend, torch.float32, cpu, "CUDA tensors, not 'cpu' ones")
