"""The public functions of the LSTM and the GRU: arguments, errors and results."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn import functional
from fastrnn.export import decompositions

T, B, I, H = 5, 3, 4, 6  # noqa: E741
GATES = {"LSTM": 4, "GRU": 3}
LAYERS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU}
STACKS: dict[str, Any] = {"LSTM": functional.lstm, "GRU": functional.gru}
TORCH: dict[str, Any] = {"LSTM": torch.lstm, "GRU": torch.gru}

pytestmark = pytest.mark.parametrize("mode", GATES)


def states(mode: str, *shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return h, and c for the LSTM."""
    count = 2 if mode == "LSTM" else 1
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for _ in range(count)]


def as_hx(given: list[Tensor]) -> Any:
    return given[0] if len(given) == 1 else tuple(given)


def flat(results: Any) -> list[Tensor]:
    """Return output, h_n and, for the LSTM, c_n."""
    output, last = results
    return [output, *(last if isinstance(last, tuple) else (last,))]


def with_gradients(results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Return the results, their gradients and the gradients of these."""
    loss = sum((x.sin() * (1 + k)).sum() for k, x in enumerate(results))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
    return [*results, *first, *second]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"bidirectional": True, "bias": False},
        {"num_layers": 2, "dropout": 0.5},
    ],
)
@pytest.mark.parametrize("given_hx", [False, True])
def test_matches_torch(mode: str, given_hx: bool, options: dict[str, Any]) -> None:
    """Results, gradients and second derivatives."""
    layer = LAYERS[mode](I, H, dtype=torch.float64, **options)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    directions = 2 if layer.bidirectional else 1
    hx = states(mode, directions * layer.num_layers, B, H) if given_hx else []
    weights = list(layer.parameters())
    ours, theirs = (
        lambda: STACKS[mode](x, as_hx(hx) if hx else None, weights, training=True, **options),
        lambda: layer(x, as_hx(hx) if hx else None),
    )
    results = []
    for call in (ours, theirs):
        torch.manual_seed(0)
        results.append(with_gradients(flat(call()), [x, *hx, *weights]))
    torch.testing.assert_close(*results)


def test_lengths_match_packed_rows(mode: str) -> None:
    layer = LAYERS[mode](I, H, bidirectional=True, dtype=torch.float64)
    weights, lengths = list(layer.parameters()), torch.tensor([4, 5, 1])
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    hx = states(mode, 2, B, H)
    ours = flat(STACKS[mode](x, as_hx(hx), weights, bidirectional=True, lengths=lengths))
    packed, last = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), as_hx(hx))
    theirs = flat((pad_packed_sequence(packed, total_length=T)[0], last))
    leaves = [x, *hx, *weights]
    torch.testing.assert_close(with_gradients(ours, leaves), with_gradients(theirs, leaves))


def test_packed_rows(mode: str) -> None:
    layer = LAYERS[mode](I, H, bidirectional=True, dtype=torch.float64)
    weights, lengths = list(layer.parameters()), torch.tensor([5, 4, 1])
    packed = pack_padded_sequence(torch.randn(T, B, I, dtype=torch.float64), lengths)
    hx, x = states(mode, 2, B, H), packed.data.requires_grad_()
    offsets = packed.batch_sizes.cumsum(0) - packed.batch_sizes
    options = {"bidirectional": True, "lengths": lengths, "offsets": offsets}
    output, last = STACKS[mode](x, as_hx(hx), weights, **options)
    expected, expected_last = layer(packed, as_hx(hx))
    leaves = [x, *hx, *weights]
    torch.testing.assert_close(
        with_gradients(flat((output, last)), leaves),
        with_gradients(flat((expected.data, expected_last)), leaves),
    )


def test_heads_are_block_diagonal(mode: str) -> None:
    heads, gates = 2, GATES[mode]
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    shapes = [(gates * H, I), (heads, gates * H // heads, H // heads), (gates * H,), (gates * H,)]
    weights = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in 2 * shapes]

    def block_diagonal(weight: Tensor) -> Tensor:
        blocks = weight.unflatten(1, (gates, -1)).unbind(1)  # [n, H/n, H/n] of each gate
        return torch.cat([torch.block_diag(*block) for block in blocks])

    hx = states(mode, 2, B, H)
    ours = flat(STACKS[mode](x, as_hx(hx), weights, bidirectional=True))
    full = [block_diagonal(weight) if weight.dim() == 3 else weight for weight in weights]
    options = True, 1, 0.0, False, True, False  # bias, layers, dropout, training, bidirectional
    theirs = list(TORCH[mode](x, as_hx(hx), full, *options))
    leaves = [x, *hx, *weights]
    torch.testing.assert_close(with_gradients(ours, leaves), with_gradients(theirs, leaves))


@pytest.mark.parametrize("given_start", [False, True])
def test_resets_begin_new_sequences(mode: str, given_start: bool) -> None:
    """All rows reset at steps 0 and 2: two calls of torch compute the same."""
    layer = LAYERS[mode](I, H, bidirectional=True, dtype=torch.float64)
    weights = list(layer.parameters())
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    hx, start = states(mode, 2, B, H), states(mode, 2, H)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[[0, 2]] = True
    options: dict[str, Any] = {"bidirectional": True, "resets": resets}
    if given_start:
        options["reset_to"] = as_hx(start)
    ours = flat(STACKS[mode](x, as_hx(hx), weights, **options))

    begin = [x[:, None].expand(-1, B, -1) * int(given_start) for x in start]
    first = flat(layer(x[:2], as_hx(begin)))
    # In the second part, the reverse direction starts from hx.
    mixed = [torch.cat((s[:1], h[1:])) for s, h in zip(begin, hx, strict=True)]
    second = flat(layer(x[2:], as_hx(mixed)))
    last = [torch.cat((s[:1], f[1:])) for f, s in zip(first[1:], second[1:], strict=True)]
    theirs = [torch.cat((first[0], second[0])), *last]
    leaves = [x, *hx, *weights, *(start if given_start else [])]
    torch.testing.assert_close(with_gradients(ours, leaves), with_gradients(theirs, leaves))


def recurrence_of(mode: str) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """Return the recurrence of a cell, and arguments for one group."""
    gates = GATES[mode]
    given = {
        "pre": torch.randn(T, B, 1, gates * H, dtype=torch.float64),
        "weight_hh": torch.randn(1, gates * H, H, dtype=torch.float64) / 3,
        "h0": torch.randn(B, 1, H, dtype=torch.float64),
    }
    if mode == "LSTM":
        given["c0"] = torch.randn(B, 1, H, dtype=torch.float64)
        return functional.lstm_recurrence, given
    given["bias_hn"] = torch.randn(1, H, dtype=torch.float64)
    return functional.gru_recurrence, given


def test_recurrence_matches_a_layer(mode: str) -> None:
    """The recurrence of a projected input is the layer's."""
    function, given = recurrence_of(mode)
    layer = LAYERS[mode](I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    bias = layer.bias_ih_l0 + layer.bias_hh_l0
    if mode == "GRU":
        bias = torch.cat((bias[: 2 * H], layer.bias_ih_l0[2 * H :]))
        given["bias_hn"] = layer.bias_hh_l0[None, 2 * H :]
    given["pre"] = linear(x, layer.weight_ih_l0, bias)[:, :, None]
    given["weight_hh"] = layer.weight_hh_l0[None]
    out, *last = function(**given)
    hx = [given[name].transpose(0, 1) for name in ("h0", "c0") if name in given]
    expected, *expected_last = flat(layer(x, as_hx(hx)))
    torch.testing.assert_close(out[:, :, 0], expected)
    torch.testing.assert_close([x.transpose(0, 1) for x in last], expected_last)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pre": torch.randn(T, B, H)}, "pre must be"),
        ({"pre": torch.randn(T, B, 1, 5).double()}, "pre's last dimension must be [34]·H"),
        ({"weight_hh": torch.randn(1, H, H)}, r"weight_hh must be \[G, K·H, H\]"),
        ({"h0": torch.randn(B + 1, 1, H)}, "h0 must be"),
        ({"h0": torch.randn(B, 1, H)}, "h0 must have pre's dtype"),
        ({"reset_h": torch.randn(1, H)}, "reset_h must be"),
        ({"reset_h": torch.randn(B, 1, H).double().to("meta")}, "reset_h must be on pre's device"),
        ({"reverse_from": 2}, "reverse_from"),
    ],
)
def test_bad_arguments_of_the_recurrence(mode: str, changed: dict[str, Any], message: str) -> None:
    function, given = recurrence_of(mode)
    with pytest.raises(ValueError, match=message):
        function(**{**given, **changed})


def test_bad_arguments_of_cell(mode: str) -> None:
    function, given = recurrence_of(mode)
    name = "c0" if mode == "LSTM" else "bias_hn"
    with pytest.raises(ValueError, match=rf"{name} must be .* to fit pre, got \[7, 1\]"):
        function(**{**given, name: torch.randn(7, 1).double()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 2}, "expected 8 weights, .* got 4"),
        ({"offsets": torch.zeros(1)}, "need lengths"),
        ({"resets": torch.zeros(T)}, "resets must be"),
    ],
)
def test_bad_arguments(mode: str, options: dict[str, Any], message: str) -> None:
    weights = list(LAYERS[mode](I, H).parameters())
    with pytest.raises(ValueError, match=message):
        STACKS[mode](torch.randn(T, B, I), None, weights, **options)


def test_weights_of_another_cell_raise(mode: str) -> None:
    weights = list(nn.RNN(I, H).parameters())
    with pytest.raises(ValueError, match=rf"weight_hh must be .* for {mode}, got \[6, 6\]"):
        STACKS[mode](torch.randn(T, B, I), None, weights)


def test_complex_numbers_match_torch(mode: str) -> None:
    layer = LAYERS[mode](I, H, dtype=torch.complex128)
    x = torch.randn(T, B, I, dtype=torch.complex128)
    weights = list(layer.parameters())
    with fastrnn.use_backend("reference"):
        actual = flat(STACKS[mode](x, None, weights))
    expected = flat(layer(x))
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(y[0].abs().sum(), weights) for y in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(mode: str, dtype: torch.dtype) -> None:
    function, given = recurrence_of(mode)
    given = {name: x.float().requires_grad_() for name, x in given.items()}
    with torch.autocast("cpu", dtype=dtype):
        out, *last = function(**given)
    assert {x.dtype for x in (out, *last)} == {dtype}
    expected = function(**{name: x.to(dtype) for name, x in given.items()})
    assert torch.equal(out, expected[0])
    out.sum().backward()
    assert {x.grad.dtype for x in given.values() if x.grad is not None} == {torch.float32}


def test_no_grad_changes_no_results(mode: str) -> None:
    layer = LAYERS[mode](I, H, num_layers=2, bidirectional=True)
    x, weights = torch.randn(T, B, I), list(layer.parameters())
    options = {"num_layers": 2, "bidirectional": True, "lengths": torch.tensor([5, 0, 2])}
    expected = flat(STACKS[mode](x, None, weights, **options))
    with torch.no_grad():
        actual = flat(STACKS[mode](x, None, weights, **options))
    assert all(map(torch.equal, actual, expected))


@pytest.mark.slow
def test_compiled_as_one_graph_for_any_number_of_steps(mode: str) -> None:
    layer = LAYERS[mode](I, H, dtype=torch.float64)
    weights = list(layer.parameters())

    def function(x: Tensor) -> Any:
        return STACKS[mode](x, None, weights)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for steps in (5, 2):
        x = torch.randn(steps, B, I, dtype=torch.float64)
        results = [flat(call(x)) for call in (compiled, function)]
        torch.testing.assert_close(*results)
        gradients = [torch.autograd.grad(y[0].square().sum(), weights) for y in results]
        torch.testing.assert_close(*gradients)


class Exported(nn.Module):
    """A bidirectional layer as a module, for torch.export."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.layer = LAYERS[mode](I, H, bidirectional=True, dtype=torch.float64)

    def forward(self, x: Tensor, resets: Tensor | None = None) -> Any:
        weights = list(self.layer.parameters())
        return STACKS[self.mode](x, None, weights, bidirectional=True, resets=resets)


def test_export_serves_every_number_of_steps(mode: str) -> None:
    module, steps = Exported(mode), torch.export.Dim("steps")
    x = torch.randn(T, B, I, dtype=torch.float64)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: steps}})
    for length in (1, 2, 9):
        x = torch.randn(length, B, I, dtype=torch.float64)
        torch.testing.assert_close(flat(program.module()(x)), flat(module(x)))


@pytest.mark.parametrize("given_resets", [False, True])
def test_decompositions_leave_only_torchs_operators(mode: str, given_resets: bool) -> None:
    module, x = Exported(mode), torch.randn(T, B, I, dtype=torch.float64)
    given = (x, torch.arange(T * B).reshape(T, B) % 4 == 0) if given_resets else (x,)
    program = torch.export.export(module, given).run_decompositions(decompositions())
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert not any("fastrnn" in target for target in targets)
    if not given_resets:
        assert sum(f"aten.{mode.lower()}." in target for target in targets) == 2
    torch.testing.assert_close(flat(program.module()(*given)), flat(module(*given)))


def test_autocast_of_a_stack(mode: str) -> None:
    layer = LAYERS[mode](I, H)
    weights = list(layer.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = flat(STACKS[mode](torch.randn(T, B, I), None, weights))
    assert {x.dtype for x in results} == {torch.bfloat16}
    gradients = torch.autograd.grad(sum(x.sum() for x in results), weights)
    assert {x.dtype for x in gradients} == {torch.float32}


def test_gradients_of_each_sample_and_of_an_ensemble(mode: str) -> None:
    layers = [LAYERS[mode](I, H, bidirectional=True, dtype=torch.float64) for _ in range(3)]
    members = [[p.detach() for p in layer.parameters()] for layer in layers]
    xs = torch.randn(3, T, B, I, dtype=torch.float64)

    def loss(weights: list[Tensor], x: Tensor) -> Tensor:
        results = flat(STACKS[mode](x, None, weights, bidirectional=True))
        return sum(x.square().sum() for x in results)  # type: ignore[return-value]

    gradients = torch.func.grad(loss)
    stacked = [torch.stack(parts) for parts in zip(*members, strict=True)]
    cases = (
        ((None, 0), members[0], xs, [gradients(members[0], x) for x in xs]),
        ((0, None), stacked, xs[0], [gradients(member, xs[0]) for member in members]),
        ((0, 0), stacked, xs, [gradients(*pair) for pair in zip(members, xs, strict=True)]),
    )
    for dims, weights, x, expected in cases:
        actual = torch.func.vmap(gradients, in_dims=dims)(weights, x)
        wanted = [torch.stack(parts) for parts in zip(*expected, strict=True)]
        torch.testing.assert_close(actual, wanted)
