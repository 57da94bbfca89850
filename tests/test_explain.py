"""`fastrnn.explain`: chosen backends, reasons and the printed report."""

from types import SimpleNamespace

import pytest
import torch

import fastrnn
from fastrnn._explain import GPUS
from fastrnn.ops.backends import cpu, torch_rnn

from .utils.marks import requires_extension

pytestmark = requires_extension


@pytest.mark.parametrize(
    ("sizes", "options", "backend"),
    [
        # Our kernels are not verified on these GPUs: nn.RNN's own implementation serves the call.
        ((1000, 64, 256), {"device": "A100"}, "torch"),
        ((1000, 64, 256), {"device": "a100", "training": True}, "torch"),
        ((1000, 64, 256), {"device": "B200", "dtype": torch.bfloat16}, "torch"),
        # Calls for which cuDNN was faster on an H200, and calls for which it was not.
        ((100, 8, 64), {"device": "H200"}, "torch"),
        ((100, 8, 128), {"device": "H200", "dtype": torch.float16}, "torch"),
        ((100, 8, 128), {"device": "H200", "dtype": torch.bfloat16}, "cuda"),
        ((100, 8, 129), {"device": "H200"}, "cuda"),
        ((1024, 8, 128), {"device": "H200"}, "torch"),
        ((1025, 8, 128), {"device": "H200"}, "triton"),
        ((256, 8, 64), {"device": "H200", "dtype": torch.float16}, "triton"),
        ((4, 8, 64), {"device": "H200", "dtype": torch.bfloat16}, "torch"),
        ((5, 8, 64), {"device": "H200", "dtype": torch.bfloat16}, "cuda"),
        ((256, 8, 64), {"device": "H200", "training": True}, "torch"),
        ((1024, 8, 100), {"device": "H200", "training": True}, "torch"),
        ((1025, 8, 100), {"device": "H200", "training": True}, "triton"),
        ((1000, 8, 101), {"device": "H200", "training": True}, "triton"),
        # Among our own kernels, Triton's serve long calls with few units.
        ((1000, 64, 256), {"device": "H200", "dtype": torch.bfloat16}, "triton"),
        ((1000, 64, 512), {"device": "H200", "dtype": torch.bfloat16}, "cuda"),
        ((1000, 4, 64), {"device": "H200", "dtype": torch.float64}, "cuda"),
        ((1000, 8, 64), {"device": "mps"}, "torch"),
        ((1000, 8, 64), {"device": "xpu", "training": True}, "torch"),
        ((1, 8, 300), {"device": "cpu"}, "cpu"),
        ((1, 1, 256), {"device": "cpu"}, "cpu"),
        ((1, 1, 257), {"device": "cpu"}, "torch"),
        ((2, 1, 257), {"device": "cpu"}, "cpu"),
        ((3, 1, 257), {"device": "cpu", "training": True}, "torch"),
        ((4, 1, 257), {"device": "cpu", "training": True}, "cpu"),
        ((1, 8, 64), {"device": "cpu", "dtype": torch.bfloat16}, "cpu"),
        ((9, 8, 64), {"device": torch.device("cpu"), "dtype": torch.complex64}, "torch"),
        ((9, 8, 64), {"device": "cpu", "mode": "LSTM"}, "cpu"),
        ((1000, 64, 300), {"device": "H200", "mode": "RNN_RELU"}, "cuda"),
        ((1000, 64, 300), {"device": "H200", "mode": "GRU"}, "torch"),
    ],
)
def test_backend(sizes, options, backend):
    explanation = fastrnn.explain(*sizes, **options)
    assert explanation.backend == backend
    others = {"reference", "cpu", "cuda", "triton", "torch"} - {backend}
    assert explanation.reasons.keys() == others
    assert all(explanation.reasons.values())


@pytest.mark.parametrize(
    ("sizes", "options", "reasons"),
    [
        (
            (1000, 64, 128),
            {"device": "A100"},
            {
                "cuda": "not been verified on an sm_80 GPU",
                "triton": "kernel has not been verified on an sm_80 GPU",
                "cpu": "not 'cuda' ones",
                "reference": "slower than every other",
            },
        ),
        (
            (100, 64, 300),
            {"device": "H200"},
            {
                "triton": "below 256 steps the CUDA kernels are faster",
                "torch": "does not show cuDNN",
            },
        ),
        (
            (1000, 64, 300),
            {"device": "H200"},
            {"triton": "faster than the grid kernel", "torch": "does not show cuDNN"},
        ),
        (
            (100, 8, 64),
            {"device": "H200"},
            {"cuda": "torch is faster: according to the benchmarks on an H200"},
        ),
        (
            (1000, 8, 64),
            {"device": "mps"},
            {"cpu": "not 'mps' ones", "reference": "slower than every other"},
        ),
        (
            (1000, 64, 300),
            {"device": "H200", "mode": "LSTM"},
            {
                "cuda": "kernels for LSTM have not been verified",
                "triton": "kernels for LSTM keep W_hh on one multiprocessor, which holds H <= 64",
            },
        ),
        (
            (1000, 64, 64),
            {"device": "H200", "mode": "GRU"},
            {"triton": "the rows kernel for GRU has not been verified on an sm_90 GPU"},
        ),
        ((1, 1, 300), {"device": "cpu"}, {"cpu": "torch is faster: so few rows"}),
        ((1, 8, 64), {"device": "cpu"}, {"torch": "the CPU kernels are faster, except for a few"}),
    ],
)
def test_reasons(sizes, options, reasons):
    found = fastrnn.explain(*sizes, **options).reasons
    for name, words in reasons.items():
        assert words in found[name]


def test_it_prints_as_a_report(capsys):
    explanation = fastrnn.explain(1000, 16, 512, dtype=torch.bfloat16, device="H100")
    assert capsys.readouterr().out == ""
    lines = str(explanation).splitlines()
    assert lines[0] == "T=1000 B=16 G=1 H=512, bfloat16, inference, on H100"
    assert lines[2] == "> cuda       serves the call"
    names = [line.split()[0] for line in lines[3:7]]
    assert names == ["reference", "cpu", "triton", "torch"]
    assert "forward: cluster" in lines
    assert "backward: cluster" in lines
    assert "W_hh in registers" in explanation.plans
    assert lines[-1].endswith("not measurements.")


def test_the_report_names_a_gated_cell():
    lines = str(fastrnn.explain(1000, 16, 512, device="H100", mode="LSTM")).splitlines()
    assert lines[0].startswith("LSTM T=1000 ")
    assert lines[-1].startswith("What nn.LSTM cannot do ")
    with pytest.raises(ValueError, match=r"mode must be one of RNN_TANH, .* got 'lstm'"):
        fastrnn.explain(1000, 16, 512, mode="lstm")


@pytest.mark.parametrize(
    ("sizes", "options", "backend"),
    [
        ((1, 1, 512), {"device": "cpu"}, "cpu"),
        ((1, 1, 512), {"device": "cpu", "training": True}, "cpu"),
        ((1, 1, 512), {"device": "cpu", "mode": "GRU"}, "torch"),
        ((1000, 8, 512), {"device": "H200"}, "torch"),
        ((1, 8, 64), {"device": "cpu", "mode": "LEAKY_TANH"}, "cpu"),
        ((9, 8, 64), {"device": "H200", "mode": "LEAKY_PRE_RELU"}, "reference"),
    ],
)
def test_backend_of_other_cells(sizes, options, backend):
    explanation = fastrnn.explain(*sizes, **{"mode": "LSTM", **options})
    assert explanation.backend == backend
    assert all(explanation.reasons.values())
    if explanation.call.mode.startswith("LEAKY"):
        assert explanation.reasons["torch"] == "torch's layers have no leak"
        assert not explanation.plans


@pytest.mark.parametrize("mode", ["RNN_TANH", "LSTM", "GRU"])
def test_onednn_serves_large_calls_in_bfloat16(mode, monkeypatch):
    monkeypatch.setattr(torch_rnn, "has_bfloat16_products", lambda: True)
    monkeypatch.setattr(cpu, "multiplies_bfloat16", lambda: False)
    found = [
        fastrnn.explain(100, *size, mode=mode, dtype=torch.bfloat16, device="cpu")
        for size in ((1, 64), (64, 512))
    ]
    assert [each.backend for each in found] == ["cpu", "torch"]
    assert "bfloat16" in found[0].reasons["torch"]
    assert "products of bfloat16" in found[1].reasons["cpu"]


def test_kernels_with_amx_serve_large_calls_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch_rnn, "has_bfloat16_products", lambda: True)
    monkeypatch.setattr(cpu, "multiplies_bfloat16", lambda: True)
    found = fastrnn.explain(100, 64, 512, mode="LSTM", dtype=torch.bfloat16, device="cpu")
    assert found.backend == "cpu"
    assert "AMX" in found.reasons["torch"]


def test_the_call_is_kept():
    call = fastrnn.explain(10, 4, 64, groups=2, device="a100", training=True).call
    assert call == (
        *("RNN_TANH", 10, 4, 2, 64, torch.float32, torch.device("cuda"), True, GPUS["A100"]),
    )


@pytest.mark.parametrize(
    ("precision", "words"), [("tf32", "(tf32 products)"), ("ieee", "float32,")]
)
def test_float32_precision_follows_cudnns_setting(monkeypatch, precision, words):
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision)
    assert words in str(fastrnn.explain(10, 4, 64, device="H200"))
    assert "float32, inference, on cpu" in str(fastrnn.explain(10, 4, 64, device="cpu"))


@pytest.mark.parametrize(
    ("batch", "hidden", "kernel"), [(4, 64, "rows"), (64, 256, "single_cta_gluon")]
)
def test_triton_names_its_kernel(batch, hidden, kernel):
    plans = fastrnn.explain(1000, batch, hidden, dtype=torch.bfloat16, device="H200").plans
    assert plans == f"The {kernel} kernel, forward and backward."


def test_float64_uses_the_step_kernel():
    assert "forward: step" in fastrnn.explain(10, 4, 64, dtype=torch.float64, device="H100").plans


@pytest.mark.parametrize(
    ("device", "other"), [("A100", "reference"), ("H200", "triton"), ("mps", "reference")]
)
def test_report_names_the_backend_that_complements_torch(device, other):
    explanation = fastrnn.explain(1000, 4, 64, device=device)
    assert explanation.backend == "torch"
    assert explanation.plans.endswith(f"torch.func) runs on: {other}.")


def test_only_gpu_kernels_have_plans():
    assert fastrnn.explain(1000, 4, 64, device="cpu").plans == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_default_device_is_that_of_this_machine():
    assert fastrnn.explain(10, 4, 64).call.device == torch.device("cpu")
    with pytest.raises(RuntimeError, match="torch finds no CUDA GPU: name one of A100"):
        fastrnn.explain(10, 4, 64, device="cuda")


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((-1, 1, 1), {}, "at least"),
        ((0, 1, 1), {}, "at least"),
        ((1, 0, 1), {}, "at least"),
        ((1, 1, 0), {}, "at least"),
        ((1, 1, 1), {"groups": 0}, "at least"),
        ((1, 1, 1), {"device": "V100"}, "A100, H100, H200, B200, got V100"),
        ((1, 1, 1), {"device": "meta"}, "cuda, cpu, mps, xpu, A100, H100, H200, B200"),
    ],
)
def test_invalid_explain_arguments(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        fastrnn.explain(*arguments, **options)


def test_without_the_extension(monkeypatch):
    broken = SimpleNamespace(unavailable_reason="not built: no compiler")
    monkeypatch.setattr(cpu, "EXTENSION", broken)
    explanation = fastrnn.explain(9, 1, 1, device="cpu")
    assert explanation.backend == "torch"
    assert explanation.reasons["cpu"] == "not built: no compiler"
    assert "not available: not built" in fastrnn.explain(1000, 4, 512, device="H200").plans
