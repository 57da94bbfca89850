"""Which backend serves a call: the choice, the refusal and the fall-back."""

import warnings

import pytest
import torch

import fastrnn
from fastrnn.ops import reference
from fastrnn.ops.backends import cpp, cuda, dispatch, triton


@pytest.fixture
def tensor() -> torch.Tensor:
    return torch.zeros(2, 1, 3)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the extension could not be built."""
    monkeypatch.setattr(cpp, "unusable", lambda: "not built: c++: not found")
    monkeypatch.setattr(dispatch, "_warned", set())


def test_a_choice_holds_for_its_block(tensor: torch.Tensor) -> None:
    before = dispatch.select(tensor, 10)
    with fastrnn.use_backend("reference"):
        assert dispatch.select(tensor, 10) is reference
        with fastrnn.use_backend("auto"):
            assert dispatch.select(tensor, 10) is before
        assert dispatch.select(tensor, 10) is reference
    assert dispatch.select(tensor, 10) is before


def test_a_choice_can_be_set(tensor: torch.Tensor) -> None:
    setter = fastrnn.backend("reference")
    assert dispatch.select(tensor, 10) is reference
    setter.__exit__()
    assert dispatch.select(tensor, 10) is not reference or cpp.EXTENSION.unusable


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match="'auto', 'reference', 'cpp', 'cuda', 'triton'"):
        fastrnn.backend("cudnn")


def test_a_backend_named_raises_where_it_is_not_usable(broken: None) -> None:
    with pytest.raises(RuntimeError, match=r"not built: c\+\+: not found"):
        fastrnn.backend("cpp")


def test_a_backend_named_raises_where_it_cannot_serve() -> None:
    if cpp.EXTENSION.unusable:
        pytest.skip("the extension is not built")
    meta = torch.zeros(2, 1, 3, device="meta")
    with fastrnn.use_backend("cpp"), pytest.raises(RuntimeError, match="not 'meta' ones"):
        dispatch.select(meta, 10)


def test_auto_falls_back_and_says_so_once(broken: None, tensor: torch.Tensor) -> None:
    with pytest.warns(RuntimeWarning, match=r"reference on 'cpu' tensors.*c\+\+: not found"):
        assert dispatch.select(tensor, 10) is reference
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch.select(tensor, 10) is reference


def test_report_names_every_backend(broken: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cuda, triton):
        monkeypatch.setattr(module, "unusable", lambda: "no CUDA GPU here")
    assert [(status.name, status.reason) for status in fastrnn.backends()] == [
        ("reference", None),
        ("cpp", "not built: c++: not found"),
        ("cuda", "no CUDA GPU here"),
        ("triton", "no CUDA GPU here"),
    ]
