"""`fastrnn.explain`, as its user sees it."""

import pytest
import torch

import fastrnn
from fastrnn.ops.backends import cpp, cuda

pytestmark = pytest.mark.skipif(
    cpp.EXTENSION.unusable is not None, reason="the extension is not built"
)


def test_names_the_choice_and_the_refusals(capsys, monkeypatch):
    assert fastrnn.explain(1000, 16, 512, dtype=torch.bfloat16, device="H100") is None
    said = capsys.readouterr().out
    assert "T=1000 B=16 G=1 H=512, bfloat16, on an H100" in said
    assert "forward: cluster" in said
    assert "backward: cluster" in said
    assert "W_hh in registers" in said
    assert "not measured" in said
    assert said.endswith("proven on hardware: sm_90.\n")
    monkeypatch.setattr(cuda, "RECORDS", {})
    fastrnn.explain(10, 4, 64, device="H100")
    assert capsys.readouterr().out.endswith("proven on hardware: nowhere yet.\n")

    fastrnn.explain(10, 4, 64, groups=2, device="a100")
    said = capsys.readouterr().out
    assert "G=2" in said
    assert "cluster  clusters need compute capability 9.0" in said


@pytest.mark.parametrize(("precision", "words"), [("tf32", "tf32 products"), ("ieee", "float32,")])
def test_float32_is_computed_as_cudnn_would(capsys, monkeypatch, precision, words):
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision)
    fastrnn.explain(10, 4, 64, device="H200")
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sizes", "options", "kernel"),
    [
        ((1000, 4, 64), {"dtype": torch.bfloat16}, "rows"),
        ((10, 4, 64), {"dtype": torch.bfloat16}, None),  # a call counts more than a step
        ((1000, 64, 256), {"dtype": torch.bfloat16}, "single_cta_gluon"),
        ((1000, 64, 256), {"dtype": torch.float32}, None),
        ((1000, 4, 64), {"dtype": torch.float64}, None),
        ((1000, 4, 64), {"device": "A100"}, None),  # not proven there
    ],
)
def test_says_where_triton_is_faster(capsys, sizes, options, kernel):
    fastrnn.explain(*sizes, **{"device": "H200", **options})
    said = capsys.readouterr().out
    assert (f"takes the Triton kernel {kernel}," in said) == (kernel is not None)
    assert ("Triton" in said) == (kernel is not None)


def test_float64_is_served_step_by_step(capsys):
    fastrnn.explain(10, 4, 64, dtype=torch.float64, device="H100")
    assert "forward: step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((-1, 1, 1), {}, "at least"),
        ((1, 0, 1), {}, "at least"),
        ((1, 1, 1), {"groups": 0}, "at least"),
        ((1, 1, 1), {"dtype": torch.int32}, "not torch.int32"),
        ((1, 1, 1), {"device": "V100"}, "A100, H100, H200, B200"),
        ((1, 1, 1), {"device": "cpu"}, "A100, H100, H200, B200"),
    ],
)
def test_what_cannot_be_explained(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        fastrnn.explain(*arguments, **options)


def test_without_the_extension(monkeypatch):
    monkeypatch.setattr(cpp, "unusable", lambda: "not built: no compiler")
    with pytest.raises(RuntimeError, match="no compiler"):
        fastrnn.explain(1, 1, 1)
