"""Backend selection: priorities, rejection reasons and the fallback."""

import threading
import warnings
from types import SimpleNamespace

import pytest
import torch

import fastrnn
from fastrnn._explain import GPUS
from fastrnn.ops.backends import cpu, cuda, dispatch, reference, torch_rnn, triton
from fastrnn.ops.backends.base import Call, Kernels
from fastrnn.ops.cells import RNN_MODES
from fastrnn.testing import Problem

from ...utils.checks import check_recurrence, check_recurrence_backward
from ...utils.marks import requires_extension

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CALL = Call("RNN_TANH", 10, 2, 1, 3, torch.float32, CPU)


@pytest.fixture(autouse=True)
def reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the warnings, and restore the backend of the process after the test."""
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(dispatch, "_default", "auto")
    monkeypatch.setattr(dispatch, "_last", "auto")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine on which the extension could not be built."""
    extension = SimpleNamespace(unavailable_reason="not built: c++: not found")
    monkeypatch.setattr(cpu, "EXTENSION", extension)


def test_blocks_nest() -> None:
    assert dispatch.requested() == "auto"
    with fastrnn.use_backend("reference"):
        assert dispatch.requested() == "reference"
        with fastrnn.use_backend("torch"):
            assert dispatch.requested() == "torch"
        with fastrnn.use_backend("auto"):
            assert dispatch.requested() == "auto"
        assert dispatch.requested() == "reference"
    assert dispatch.requested() == "auto"


def test_an_exception_restores_the_backend() -> None:
    with pytest.raises(KeyError), fastrnn.use_backend("reference"):
        raise KeyError
    assert dispatch.requested() == "auto"


def test_an_invalid_name_changes_nothing() -> None:
    with (
        fastrnn.use_backend("reference"),
        pytest.raises(ValueError, match="unknown backend 'cudnn'"),
        fastrnn.use_backend("cudnn"),
    ):
        pass
    assert dispatch.requested() == "auto"
    with pytest.raises(ValueError, match="unknown backend 'cudnn'"):
        fastrnn.set_backend("cudnn")
    assert dispatch.requested() == "auto"


def test_the_process_has_a_default_and_a_block_overrides_it() -> None:
    fastrnn.set_backend("reference")
    assert dispatch.requested() == "reference"
    with fastrnn.use_backend("auto"):
        assert dispatch.requested() == "auto"
        fastrnn.set_backend("torch")
        assert dispatch.requested() == "auto"
    assert dispatch.requested() == "torch"


def _select_in_thread(found: list[str], entered: threading.Event, leave: threading.Event) -> None:
    with fastrnn.use_backend("torch"):
        entered.set()
        leave.wait(10)
        found.append(dispatch.requested())


def test_use_backend_is_local_to_a_thread() -> None:
    found: list[str] = []
    entered, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=_select_in_thread, args=(found, entered, leave))
    with fastrnn.use_backend("reference"):
        thread.start()
        assert entered.wait(10)
        assert dispatch.requested() == "reference"
        leave.set()
        thread.join()
    assert found == ["torch"]


def test_set_backend_applies_to_all_threads() -> None:
    fastrnn.set_backend("reference")
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(dispatch.requested()))
    with fastrnn.use_backend("torch"):
        thread.start()
        thread.join()
    assert found == ["reference"]


def test_an_unknown_backend_raises_with_all_names() -> None:
    with pytest.raises(ValueError, match="'auto', 'reference', 'cpu', 'cuda', 'triton', 'torch'"):
        fastrnn.set_backend("cudnn")


@requires_extension
def test_an_earlier_backend_name_warns() -> None:
    with pytest.warns(DeprecationWarning, match="now called 'cpu'") as found:
        fastrnn.set_backend("cpp")
    assert dispatch.requested() == "cpu"
    assert found[0].filename == __file__
    fastrnn.set_backend("auto")
    with (
        pytest.warns(DeprecationWarning, match="now called 'cpu'") as found,
        fastrnn.use_backend("cpp"),
    ):
        assert dispatch.requested() == "cpu"
    assert found[0].filename == __file__


@pytest.mark.usefixtures("broken")
def test_a_named_backend_raises_if_unavailable() -> None:
    with pytest.raises(RuntimeError, match=r"not built: c\+\+: not found"):
        fastrnn.set_backend("cpu")
    with (
        pytest.raises(RuntimeError, match=r"not built: c\+\+: not found"),
        fastrnn.use_backend("cpu"),
    ):
        pass


def test_a_named_backend_raises_for_unsupported_calls() -> None:
    meta = CALL._replace(device=torch.device("meta"))
    with pytest.raises(RuntimeError, match=r"not 'meta' ones; use fastrnn\.set_backend"):
        dispatch.for_recurrence(meta, "cpu")
    with pytest.raises(RuntimeError, match="serves whole layers"):
        dispatch.for_recurrence(CALL, "torch")


def test_the_selected_backend_reaches_the_operators() -> None:
    here, meta = torch.zeros(1), torch.zeros(1, device="meta")
    numbers = {}
    for name in ("reference", "cpu", "torch", "auto"):
        with fastrnn.use_backend(name):
            numbers[name] = dispatch.number_by_name(here), dispatch.number_by_name(meta)
    reference, kernels = dispatch.NAMES.index("reference"), dispatch.NAMES.index("cpu")
    assert numbers == {
        "reference": (reference, reference),
        "cpu": (None, kernels),  # the default operator, and one that raises
        "torch": (None, None),
        "auto": (None, None),
    }


def test_the_torch_backend_has_no_recurrence() -> None:
    pre, weight_hh, h0 = torch.zeros(5, 2, 1, 3), torch.zeros(1, 3, 3), torch.zeros(2, 1, 3)
    with fastrnn.use_backend("torch"), pytest.raises(RuntimeError, match="serves whole layers"):
        fastrnn.functional.recurrence(pre, weight_hh, h0)


@pytest.mark.usefixtures("broken")
def test_auto_falls_back_and_warns_once() -> None:
    with pytest.warns(RuntimeWarning, match=r"reference on 'cpu' tensors.*c\+\+: not found"):
        assert dispatch.for_recurrence(CALL) is reference.BACKEND
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch.for_recurrence(CALL) is reference.BACKEND
        assert dispatch.for_layer(CALL) is torch_rnn.BACKEND


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_auto_uses_no_unverified_kernels_of_other_cells(mode: str) -> None:
    call = CALL._replace(mode=mode, device=CUDA, gpu=GPUS["H200"])
    expected = (
        f"triton: the rows kernel for {mode} has not been verified on an sm_90 GPU; .*; "
        f"cuda: the CUDA kernels for {mode} have not been verified on an sm_90 GPU"
    )
    with pytest.warns(RuntimeWarning, match=expected):
        assert dispatch.for_recurrence(call) is reference.BACKEND
    assert dispatch.for_layer(call) is torch_rnn.BACKEND
    assert dispatch.for_recurrence(call, "cuda") is cuda.BACKEND
    assert dispatch.for_recurrence(call, "triton") is triton.BACKEND
    with pytest.raises(RuntimeError, match=f"kernels for {mode} keep .* H <= 64 .* H = 500"):
        dispatch.for_recurrence(call._replace(hidden=500), "triton")


@pytest.mark.parametrize("mode", RNN_MODES.values())
def test_kernels_of_nn_rnn_implement_the_operators(mode: str) -> None:
    """A backend that implements only nn.RNN's methods."""

    class OfNnRnn(Kernels):
        unavailable_reason = unsupported_reason = detail = None
        forward_out = reference.BACKEND.forward_out
        backward = reference.BACKEND.backward

    kernels = OfNnRnn()
    problem = Problem(4, 3, 2, 5, "packed", activation=mode[4:].lower())
    pre, arguments = problem.inputs()
    check_recurrence(kernels, problem)
    check_recurrence_backward(kernels, problem)
    with pytest.raises(ValueError, match="add W_hh reset_h to pre"):
        kernels.recurrence(pre, arguments._replace(reset_h=arguments.h0), save=False)


#: A fake backend's reasons: unavailable, unsupported, unverified, slower.
FINE = (None, None, None, None)
CHECKS = ("unavailable_reason", "unsupported_reason", "unverified_reason", "slower_reason")


def _set_reasons(
    kernels: Kernels, reasons: tuple[str | None, ...], patch: pytest.MonkeyPatch
) -> None:
    for check, reason in zip(CHECKS, reasons, strict=True):
        patch.setattr(kernels, check, lambda *_, reason=reason: reason)


@pytest.mark.parametrize(
    ("triton_reasons", "cuda_reasons", "chosen", "reasons"),
    [
        (FINE, FINE, "triton", {}),
        ((None, None, None, "slow"), FINE, "cuda", {"triton": "slow"}),
        ((None, None, "new", "slow"), FINE, "cuda", {"triton": "new"}),
        ((None, "odd", "new", "slow"), FINE, "cuda", {"triton": "odd"}),
        (("absent", "odd", "new", "slow"), FINE, "cuda", {"triton": "absent"}),
        # A slower backend is better than none; the first one is selected.
        (
            (None, None, None, "slow"),
            ("absent", None, None, None),
            "triton",
            {"triton": "slow", "cuda": "absent"},
        ),
        (
            (None, None, None, "slow"),
            (None, None, None, "slow too"),
            "triton",
            {"triton": "slow", "cuda": "slow too"},
        ),
        (
            (None, None, "new", None),
            (None, "odd", None, None),
            None,
            {"triton": "new", "cuda": "odd"},
        ),
    ],
)
def test_backend_priority(triton_reasons, cuda_reasons, chosen, reasons, monkeypatch) -> None:
    _set_reasons(triton.BACKEND, triton_reasons, monkeypatch)
    _set_reasons(cuda.BACKEND, cuda_reasons, monkeypatch)
    call = CALL._replace(device=CUDA)
    kernels, found = dispatch.best_kernels(call)
    assert (kernels.name if kernels else None) == chosen
    assert found == reasons
    monkeypatch.setattr(torch_rnn.BACKEND, "slower_reason", lambda call: "slow")
    assert dispatch.for_layer(call).name == (chosen or "torch")
    monkeypatch.setattr(torch_rnn.BACKEND, "slower_reason", lambda call: None)
    assert dispatch.for_layer(call).name == "torch"
    assert dispatch.for_layer(call, prefer_kernels=True).name == (chosen or "torch")


def test_an_assumed_gpu_has_everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_reasons(triton.BACKEND, ("absent", None, None, None), monkeypatch)
    call = CALL._replace(device=CUDA, gpu=GPUS["H200"])
    assert dispatch.reason_against(triton.BACKEND, call) is None
    assert dispatch.reason_against(triton.BACKEND, call._replace(gpu=None)) == "absent"


def test_slower_backends_can_be_selected_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_reasons(cuda.BACKEND, (None, None, "new", "slow"), monkeypatch)
    assert dispatch.for_recurrence(CALL._replace(device=CUDA), "cuda") is cuda.BACKEND


@pytest.mark.usefixtures("broken")
def test_backends_lists_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernels in (cuda.BACKEND, triton.BACKEND):
        monkeypatch.setattr(kernels, "unavailable_reason", lambda: "no CUDA GPU here")
    found = fastrnn.backends()
    assert {name: status.reason for name, status in found.items()} == {
        "reference": None,
        "cpu": "not built: c++: not found",
        "cuda": "no CUDA GPU here",
        "triton": "no CUDA GPU here",
        "torch": None,
    }
    assert [status.name for status in found.values()] == list(found) == list(dispatch.NAMES)
    assert found["torch"].detail.endswith(torch.__version__)
    assert found["cpu"].detail == ""


def test_earlier_functions_warn_and_work() -> None:
    with pytest.warns(DeprecationWarning, match=r"use fastrnn\.set_backend\(name\)"):
        choose = fastrnn.backend
    with choose("reference"):
        assert dispatch.requested() == "reference"
    assert dispatch.requested() == "auto"
    choose("torch")
    assert dispatch.requested() == "torch"
    with pytest.warns(DeprecationWarning, match=r"use fastrnn\.backends\(\)"):
        report = fastrnn.report
    assert report() == list(fastrnn.backends().values())
    with pytest.raises(AttributeError, match="'fastrnn' has no attribute 'cudnn'"):
        _ = fastrnn.cudnn
