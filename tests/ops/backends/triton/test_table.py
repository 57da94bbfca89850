"""The kernel that the table chooses for a call, and the calls that `auto` may use it for."""

import json
import re
from pathlib import Path

import numpy
import pytest
import torch

from fastrnn._explain import GPUS
from fastrnn.ops.backends import triton
from fastrnn.ops.backends.base import Call
from fastrnn.ops.backends.triton import table
from fastrnn.ops.backends.triton.table import (
    FASTEST_FROM,
    MODES,
    TABLE,
    Sizes,
    choose,
    power_of_two,
    unserved_reason,
)
from tools.gpu_validation.results import verified_kernels

A100 = {"capability": (8, 0), "shared": 166912, "processors": 108}
H100 = {"capability": (9, 0), "shared": 232448, "processors": 132}
GLUON = {**H100, "wgmma": True}
RTX_4090 = {"capability": (8, 9), "shared": 101376, "processors": 128}
ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("device", "mode", "batch", "hidden", "kernel"),
    [
        (H100, "half", 1, 64, "rows"),
        (H100, "half", 64, 256, "single_cta"),
        (GLUON, "half", 132, 128, "rows"),
        (GLUON, "half", 133, 128, "single_cta_gluon"),
        (GLUON, "half", 1, 256, "single_cta_gluon"),
        (GLUON, "half", 1, 257, "grid"),
        (GLUON, "tf32", 264, 64, "rows"),
        (GLUON, "tf32", 265, 64, "single_cta"),
        (H100, "half", 64, 257, "grid"),
        (A100, "half", 64, 256, "single_cta"),
        (RTX_4090, "half", 64, 256, "grid"),  # W_hh does not fit
        (RTX_4090, "half", 129, 128, "single_cta"),
        (H100, "tf32", 64, 128, "rows"),
        (H100, "tf32", 133, 128, "single_cta"),
        (H100, "tf32", 64, 129, "grid"),
        (H100, "float32", 1, 128, "rows"),
        (H100, "float32", 132, 128, "rows"),
        (H100, "float32", 133, 128, "single_cta"),
        (RTX_4090, "float32", 129, 128, "grid"),
        (RTX_4090, "float32", 129, 64, "rows"),
        (RTX_4090, "float32", 257, 64, "single_cta"),
        (H100, "half", 1, 4096, "grid"),
        (H100, "float32", 1, 100_000, "grid"),
    ],
)
def test_choice(device: dict, mode: str, batch: int, hidden: int, kernel: str) -> None:
    assert choose(Sizes(batch, 1, hidden, mode, **device)) == kernel


@pytest.mark.parametrize(
    ("device", "gates", "mode", "batch", "hidden", "kernel"),
    [
        (H100, 4, "half", 264, 64, "rows"),
        (H100, 4, "half", 265, 64, "single_cta"),
        (GLUON, 3, "half", 1, 128, "single_cta"),
        (H100, 4, "tf32", 265, 64, "single_cta"),
        (H100, 4, "float32", 265, 64, "rows"),  # in waves
        (H100, 4, "half", 1, 129, None),
        (H100, 3, "tf32", 1, 65, None),
        (RTX_4090, 3, "half", 1, 65, None),  # W_hh does not fit
        (H100, 1, "tf32", 132, 128, "rows"),
        (H100, 1, "half", 133, 128, "single_cta"),
        (H100, 1, "float32", 133, 128, "rows"),
        (H100, 1, "half", 1, 129, None),
    ],
)
def test_choice_for_cells_that_save_gates(
    device: dict, gates: int, mode: str, batch: int, hidden: int, kernel: str | None
) -> None:
    sizes = Sizes(batch, 1, hidden, mode, gates=gates, **device)
    reason = unserved_reason("the cell", sizes)
    if kernel is None:
        assert f"not H = {hidden}" in (reason or "")
        with pytest.raises(ValueError, match=f"no kernel serves H = {hidden}"):
            choose(sizes)
    else:
        assert reason is None
        assert choose(sizes) == kernel


def test_gates_count_in_tile_offsets() -> None:
    sizes = Sizes(64, 2**17 + 1, 64, "half", **H100)
    assert choose(sizes) == "single_cta"
    assert choose(sizes._replace(gates=3)) == "single_cta"
    assert choose(sizes._replace(gates=4)) == "rows"


def test_groups_count_as_programs() -> None:
    assert choose(Sizes(64, 2, 128, "float32", **H100)) == "rows"
    assert choose(Sizes(64, 3, 128, "float32", **H100)) == "single_cta"


def test_rows_too_wide_for_tile_offsets_use_grid() -> None:
    assert choose(Sizes(64, 2**19, 64, "half", **H100)) == "single_cta"
    assert choose(Sizes(64, 2**19 + 1, 64, "half", **H100)) == "grid"


@pytest.mark.parametrize("mode", MODES)
def test_every_size_is_served_on_every_device(mode: str) -> None:
    for device in (A100, H100, RTX_4090):
        for batch in (0, 1, 16, 1000):
            for hidden in (1, 16, 17, 128, 129, 256, 257, 1024, 5000):
                kernel = choose(Sizes(batch, 1, hidden, mode, **device))
                assert kernel in {row.kernel for row in TABLE}


def test_power_of_two() -> None:
    assert [power_of_two(n) for n in (1, 16, 17, 128, 129)] == [16, 16, 32, 128, 256]
    assert power_of_two(3, least=128) == 128


def test_verified_kernels_have_a_record() -> None:
    """The comment above `VERIFIED` names the record."""
    source = Path(table.__file__).read_text()
    (name,) = re.findall(r"record: (benchmarks/results/\S+\.json)\.\nVERIFIED = ", source)
    record = json.loads((ROOT / name).read_text())
    verified, capability = verified_kernels(record), tuple(record["environment"]["capability"])
    assert table.VERIFIED
    for kernel, verified_on in table.VERIFIED:
        assert verified_on == capability
        assert f"triton.{kernel}" in verified


#: A call on an H100, which this machine need not have.
CALL = Call("RNN_TANH", 10, 4, 1, 64, torch.bfloat16, torch.device("cuda"), gpu=GPUS["H100"])


def test_unverified_without_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "VERIFIED", {("grid", (9, 0)), ("rows", (8, 0))})
    reason = triton.BACKEND.unverified_reason(CALL)
    assert reason is not None
    assert "rows kernel has not been verified on an sm_90 GPU" in reason
    assert triton.BACKEND.unsupported_reason(CALL) is None
    monkeypatch.setattr(triton, "VERIFIED", {("rows", (9, 0))})
    assert triton.BACKEND.unverified_reason(CALL) is None


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "LEAKY_TANH", "LEAKY_PRE_RELU"])
def test_no_record_verifies_other_cells(mode: str) -> None:
    call = CALL._replace(mode=mode)
    assert triton.BACKEND.unsupported_reason(call) is None
    expected = f"the rows kernel for {mode} has not been verified on an sm_90 GPU"
    assert expected in (triton.BACKEND.unverified_reason(call) or "")
    assert mode in (triton.BACKEND.slower_reason(call) or "")
    assert "H = 200" in (triton.BACKEND.unsupported_reason(call._replace(hidden=200)) or "")


def test_old_gpus_are_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    reason = triton.BACKEND.unsupported_reason(CALL._replace(gpu=None))
    assert reason is not None
    assert "compute capability is 7.5" in reason


def test_other_dtypes_and_devices_are_unsupported() -> None:
    double = CALL._replace(dtype=torch.float64)
    assert "not torch.float64" in (triton.BACKEND.unsupported_reason(double) or "")
    meta = CALL._replace(device=torch.device("meta"), gpu=None)
    assert "not 'meta' ones" in (triton.BACKEND.unsupported_reason(meta) or "")


@pytest.mark.parametrize(
    ("steps", "hidden", "words"),
    [
        (FASTEST_FROM, 64, None),
        (FASTEST_FROM - 1, 64, f"below {FASTEST_FROM} steps"),
        (FASTEST_FROM, 1000, "faster than the grid kernel"),
    ],
)
def test_cuda_kernels_are_faster(steps: int, hidden: int, words: str | None) -> None:
    reason = triton.BACKEND.slower_reason(CALL._replace(steps=steps, hidden=hidden))
    assert reason is None if words is None else words in (reason or "")


@pytest.mark.parametrize(
    ("version", "numpy_version", "unavailable"),
    [("3.6.0", "2.4.6", True), ("3.6.0", "2.3.5", False), ("3.7.0", "2.4.6", False)],
)
def test_an_old_interpreter_with_a_new_numpy_is_unavailable(
    version: str, numpy_version: str, unavailable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail at the first loop, with an error that mentions neither."""
    installed = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "interpreting", lambda: True)
    monkeypatch.setattr(installed, "__version__", version)
    monkeypatch.setattr(numpy, "__version__", numpy_version)
    reason = triton._unavailable_reason.__wrapped__()
    assert ("pip install 'triton>=3.7' or 'numpy<2.4'" in (reason or "")) == unavailable
    assert unavailable or reason is None
