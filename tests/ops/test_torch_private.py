"""Check that every private name of torch that we use still behaves as we expect."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

from fastrnn.ops import _torch_private as private


def test_below_autograd_nothing_is_recorded() -> None:
    x = torch.ones(3, requires_grad=True)
    with private.below_autograd():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_below_views_views_are_not_tracked() -> None:
    x = torch.ones(4)
    with private.below_views(), torch.no_grad():
        view = x.view(2, 2)
    assert not view._is_view()
    assert view.data_ptr() == x.data_ptr()
    assert x.view(2, 2)._is_view()


def test_keys_below_autograd_are_device_keys() -> None:
    keys, key = private.below_autograd_keys, torch._C.DispatchKey
    assert all(keys.has(device) for device in (key.CPU, key.CUDA, key.Meta))
    assert not any(keys.has(autograd) for autograd in (key.AutogradCPU, key.AutogradCUDA))


def test_forward_mode_is_detected_and_can_be_disabled() -> None:
    assert private.is_forward_mode()
    with private.set_forward_mode(False):
        assert not private.is_forward_mode()
    with forward_ad.dual_level():
        assert private.is_transforming()
    assert not private.is_transforming()


def test_transforms_are_detected() -> None:
    found = []

    def look(x: Tensor) -> Tensor:
        found.append(private.is_transforming())
        return x.sum()

    for transform in (torch.vmap, torch.func.grad):
        transform(look)(torch.ones(3))
    assert found == [True, True]


def test_batched_gradients_are_detected() -> None:
    found = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            found.append(private.is_batched(grad))
            return grad

    x = torch.ones(3, requires_grad=True)
    for grads, is_batched in ((torch.eye(3), True), (torch.ones(3), False)):
        torch.autograd.grad(Look.apply(x), x, grads, is_grads_batched=is_batched)
    assert found == [True, False]


def test_the_builtin_of_an_operator_runs_it() -> None:
    x = torch.tensor([-1.0, 2.0])
    builtin = private.builtin(torch.ops.aten.relu.default)
    assert type(builtin).__name__ == "builtin_function_or_method"
    assert torch.equal(builtin(x), x.relu())


def test_apply_outside_transforms_records_the_function() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * grad

    x = torch.ones(3, requires_grad=True)
    y = private.apply_outside_transforms(Double)(x)
    assert "Double" in type(y.grad_fn).__name__
    assert torch.equal(*torch.autograd.grad(y.sum(), x), torch.full((3,), 2.0))


def test_a_function_of_a_single_level() -> None:
    class Double(private.SingleLevelFunction):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def setup_context(ctx: object, inputs: object, output: object) -> None:
            pass

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return 3 * grad

    x = torch.ones((), requires_grad=True)
    with private.single_level():
        result = Double.apply(x)
    assert result.item() == 2
    assert torch.autograd.grad(result, x)[0].item() == 3


def test_autocast_of_any_device_is_detected() -> None:
    assert not private.is_any_autocast()
    for device in ("cpu", "cuda"):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cpu"):
            assert private.is_any_autocast() is (device == "cpu")


def test_a_lazy_clone_copies_at_the_first_write() -> None:
    x = torch.ones(3)
    copy = private.lazy_clone(x)
    copy[0] = 2
    assert x.tolist() == [1, 1, 1]
    assert copy.tolist() == [2, 1, 1]


def test_backward_knows_whether_its_graph_is_retained() -> None:
    found = []
    x = torch.ones((), requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: found.append(private.keeps_graph()))
    y.backward(retain_graph=True)
    y.backward()
    assert found == [True, False]


def test_an_assertion_on_a_device() -> None:
    private.assert_async(torch.tensor(True), "no")


def test_dynamo_skips_a_function() -> None:
    @private.disable_dynamo
    def number(x: Tensor) -> float:
        assert not torch.compiler.is_compiling()
        return x.sum().item()

    compiled = torch.compile(lambda x: x + number(x), backend="eager")
    assert compiled(torch.ones(2)).tolist() == [3, 3]


def test_onednn_reports_its_matrix_products() -> None:
    for dtype in ("bf16", "fp16"):
        assert private.has_mkldnn_products(dtype) in (True, False)


def test_amx_is_detected() -> None:
    assert private.has_bfloat16_products() in (True, False)


def test_onednn_can_be_disabled() -> None:
    enabled = torch.backends.mkldnn.enabled
    with private.without_onednn():
        assert not torch.backends.mkldnn.enabled
    assert torch.backends.mkldnn.enabled == enabled


def test_expanded_weights_are_detected() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    assert not private.is_expanded_weight(weight)
    assert private.is_expanded_weight(ExpandedWeight(weight, 3, "sum"))


def test_statically_true_conditions_are_detected() -> None:
    assert private.statically_known_true(True)
    assert not private.statically_known_true(False)


def test_every_name_is_tested() -> None:
    """Every new name needs a test above that uses it."""
    public = {"Any", "Iterator", "Tensor", "annotations", "contextlib"}
    public |= {"Callable", "forward_ad", "functools", "torch"}
    names = {name for name in vars(private) if not name.startswith("__")} - public
    tests = Path(__file__).read_text()
    assert [name for name in sorted(names) if f"private.{name}" not in tests] == []
