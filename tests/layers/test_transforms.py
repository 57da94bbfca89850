"""Our layers under torch.func, torch.vmap and forward-mode AD, which torch's do not support."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import FusedGRU, FusedLSTM, FusedLSTMCell, FusedRNN, FusedRNNCell
from fastrnn.functional import recurrence
from fastrnn.ops import reference

from ..utils.nn_rnn_parity import (
    assert_same,
    every_layer,
    mostly_rnn,
    random_hx,
    rnn_and_lstm,
    tensors,
)

V = 3


def layer(ours: Any = FusedRNN, **options: Any) -> Any:
    return ours(3, 4, 2, bidirectional=True, dtype=torch.float64, **options)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, dtype=torch.float64)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def loss(rnn: nn.Module, weights: dict[str, Tensor], x: Tensor, **options: Any) -> Tensor:
    output, *states = tensors(functional_call(rnn, weights, (x,), options))
    return output.square().sum() + sum(state.sin().sum() for state in states)


def stack(results: list[Any]) -> Any:
    """Stack the leaves of equal trees: [(a, b), (a, b)] -> (stacked a, stacked b)."""
    return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *results)


# Forward mode.


@pytest.mark.parametrize("ours", [FusedRNN, FusedLSTM, FusedGRU, FusedRNNCell, FusedLSTMCell])
@pytest.mark.parametrize("recording", [False, True])
def test_dual_tensors_through_the_layer_and_the_cell(recording: bool, ours: Any) -> None:
    rnn = layer(ours) if issubclass(ours, nn.RNNBase) else ours(3, 4, dtype=torch.float64)
    x, dx = inputs(5, 2), inputs(5, 2)
    if not isinstance(rnn, nn.RNNBase):
        x, dx = x[0], dx[0]
    with forward_ad.dual_level(), torch.set_grad_enabled(recording):
        results = tensors(rnn(forward_ad.make_dual(x, dx)))
        found = [forward_ad.unpack_dual(result) for result in results]
    for index, duals in enumerate(found):
        function, primal, tangent = (lambda x, index=index: tensors(rnn(x))[index]), x, dx
        # Reverse mode twice: the derivative of J^T u with respect to u, along dx, is J dx.
        y, pull = vjp(function, primal)
        assert_same(duals.primal, y)
        assert_same(duals.tangent, vjp(lambda u: pull(u)[0], y)[1](tangent)[0])  # noqa: B023


def test_tangent_of_the_gradient_of_an_earlier_eager_call() -> None:
    """The fast path of eager calls must keep the tangent."""
    rnn = layer()
    x = inputs(5, 2).requires_grad_()
    output, _ = rnn(x)
    u, du = torch.randn_like(output), torch.randn_like(output)
    with forward_ad.dual_level():
        gradient = torch.autograd.grad(output, x, forward_ad.make_dual(u, du), retain_graph=True)
        tangent = forward_ad.unpack_dual(gradient[0]).tangent
    assert_same(tangent, torch.autograd.grad(output, x, du)[0])  # linear in u


def test_tangents_in_half_precision_are_summed_in_float32() -> None:
    rnn = FusedRNN(3, 33, dtype=torch.bfloat16)
    exact = FusedRNN(3, 33, dtype=torch.float64)
    exact.load_state_dict(rnn.state_dict())
    x, dx = inputs(9, 2).bfloat16(), inputs(9, 2).bfloat16()
    _, actual = jvp(lambda x: rnn(x)[0], (x,), (dx,))
    _, expected = jvp(lambda x: exact(x)[0], (x.double(),), (dx.double(),))
    assert actual.dtype == torch.bfloat16
    # |dh| < 4 here. A step rounds h, pre and dh by 2^-8 each; all steps sum to 2.4 times that.
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=3 * 2.4 * 4 * 2.0**-8)


# The layers. torch's fail: "Batching rule not implemented for aten::rnn_tanh.input".


@rnn_and_lstm
def test_vmap_over_inputs_in_any_dimension_nested_and_in_chunks(ours: Any) -> None:
    rnn = layer(ours)
    x = inputs(V, 5, 2, 2)  # [V, T, W, B, I]
    one = stack([rnn(x[v, :, 0]) for v in range(V)])
    assert_same(vmap(rnn)(x[:, :, 0]), one)
    assert_same(vmap(rnn, chunk_size=2)(x[:, :, 0]), one)
    assert_same(vmap(rnn, in_dims=-2)(x[:, :, 0].movedim(0, -2)), one)
    with torch.no_grad():  # where outputs may overwrite pre-activations
        assert_same(vmap(rnn)(x[:, :, 0]), one)
    both = stack([stack([rnn(x[v, :, w]) for w in range(2)]) for v in range(V)])
    assert_same(vmap(vmap(rnn, in_dims=1))(x), both)


@every_layer
@pytest.mark.parametrize("given", ["nothing", "lengths", "hx"])
def test_per_sample_gradients(given: str, ours: Any) -> None:
    rnn = layer(ours)
    weights = parameters(rnn)
    x = inputs(V, 5, 1)  # every sample is a batch of one
    options = {
        "nothing": {},
        "lengths": {"lengths": torch.tensor([[5], [0], [3]])},
        "hx": {"hx": stack([random_hx(rnn, 1) for _ in range(V)])},
    }[given]

    def of(weights: dict[str, Tensor], x: Tensor, options: dict[str, Tensor]) -> Tensor:
        return loss(rnn, weights, x, **options)

    actual = vmap(grad(of), in_dims=(None, 0, 0))(weights, x, options)
    samples = [torch.utils._pytree.tree_map(lambda x: x[v], options) for v in range(V)]  # noqa: B023
    assert_same(actual, stack([grad(of)(weights, x[v], samples[v]) for v in range(V)]))


@every_layer
def test_ensemble_is_one_call_per_layer(ours: Any) -> None:
    members = [layer(ours) for _ in range(V)]
    weights, _ = stack_module_state(members)  # type: ignore[arg-type]
    x = inputs(5, 2)

    def member(weights: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(members[0], weights, (x,))

    with (
        fastrnn.use_backend("reference"),
        mock.patch.object(reference, "forward", wraps=reference.forward) as forward,
        mock.patch.object(reference, "backward", wraps=reference.backward) as backward,
    ):
        output, last = vmap(member, in_dims=(0, None))(weights, x)
        gradients = torch.autograd.grad((output * output).sum(), list(weights.values()))
    assert (forward.call_count, backward.call_count) == (2, 2)
    assert_same((output, last), stack([rnn(x) for rnn in members]))
    for rnn in members:
        rnn(x)[0].square().sum().backward()
    for name, gradient in zip(weights, gradients, strict=True):
        assert_same(gradient, torch.stack([rnn.get_parameter(name).grad for rnn in members]))  # type: ignore[misc]


@rnn_and_lstm
def test_an_ensemble_of_packed_sequences(ours: Any) -> None:
    members = [layer(ours) for _ in range(V)]
    weights, _ = stack_module_state(members)  # type: ignore[arg-type]
    packed = pack_padded_sequence(inputs(5, 3), [5, 3, 1])
    actual = vmap(lambda weights: functional_call(members[0], weights, (packed,))[0].data)(weights)
    assert_same(actual, torch.stack([rnn(packed)[0].data for rnn in members]))


@every_layer
def test_jacobians_and_hessians_of_every_order_of_modes_agree(ours: Any) -> None:
    rnn = layer(ours)
    weights = parameters(rnn)
    lengths = torch.tensor([3, 2])
    x = inputs(3, 2)

    def of(x: Tensor) -> Tensor:
        return loss(rnn, weights, x, lengths=lengths)

    assert_same(jacfwd(of)(x), jacrev(of)(x))
    expected = jacrev(jacrev(of))(x)
    assert expected.abs().max() > 0
    for actual in (hessian(of), jacrev(jacfwd(of)), jacfwd(jacfwd(of))):
        assert_same(actual(x), expected)


@every_layer
def test_hessian_by_the_weights(ours: Any) -> None:
    rnn = ours(3, 2, dtype=torch.float64)
    weights, x = parameters(rnn), inputs(4, 2)

    def of(weight_hh: Tensor) -> Tensor:
        return loss(rnn, {**weights, "weight_hh_l0": weight_hh}, x)

    weight_hh = weights["weight_hh_l0"]
    assert_same(hessian(of)(weight_hh), jacrev(jacrev(of))(weight_hh))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_follows_vmap_randomness(randomness: str) -> None:
    rnn = layer(dropout=0.5)
    x = inputs(5, 2)
    first, second = vmap(lambda x: rnn(x)[0], randomness=randomness)(x.expand(2, *x.shape))
    assert torch.equal(first, second) == (randomness == "same")


def test_backend_selected_by_name() -> None:
    rnn, x = layer(), inputs(V, 5, 2)

    def of(x: Tensor) -> Tensor:
        return loss(rnn, parameters(rnn), x)

    expected = vmap(grad(of))(x), jvp(of, (x[0],), (x[1],))
    with fastrnn.use_backend("reference"):
        assert_same((vmap(grad(of))(x), jvp(of, (x[0],), (x[1],))), expected)


def test_complex_numbers() -> None:
    rnn = FusedRNN(3, 4, dtype=torch.complex128)
    x, lengths = torch.randn(2, 5, 2, 3, dtype=torch.complex128), torch.tensor([[5, 2], [1, 3]])
    expected = stack([rnn(x[v], lengths=lengths[v]) for v in range(2)])
    assert_same(vmap(lambda x, lengths: rnn(x, lengths=lengths))(x, lengths), expected)


def test_autocast() -> None:
    rnn, x = FusedRNN(3, 4), inputs(V, 5, 2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mapped, _ = vmap(rnn)(x)
        _, (tangent, _) = jvp(rnn, (x[0],), (x[1],))
        expected, _ = rnn(x[0])
    assert mapped.dtype == tangent.dtype == torch.bfloat16
    # A product of another shape may sum in another order: one rounding of a number < 1 per step.
    torch.testing.assert_close(mapped[0], expected, rtol=0, atol=5 * 2.0**-8)


@mostly_rnn
def test_compiled_per_sample_gradients_are_one_graph(ours: Any) -> None:
    rnn, x = ours(3, 4, dtype=torch.float64), inputs(V, 5, 2)
    weights = parameters(rnn)

    def of(weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        return vmap(grad(lambda *pair: loss(rnn, *pair)), in_dims=(None, 0))(weights, x)

    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    assert_same(compiled(weights, x), of(weights, x))


@pytest.mark.slow
def test_compiled_tangents_and_hessians() -> None:
    weight_hh, h0, pre = (torch.randn(n, 1, 1, 1, dtype=torch.float64) for n in (1, 1, 3))

    def of(pre: Tensor) -> Tensor:
        out, h_n = recurrence(pre, weight_hh[0], h0[0], reverse_from=1)
        return out.square().sum() + h_n.sin().sum()

    for function in (lambda pre: jvp(of, (pre,), (pre,)), hessian(of), jacrev(jacfwd(of))):
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_same(compiled(pre), function(pre))
