"""JAX: a loop by lax.scan, compiled by XLA."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..shapes import Case, Shape
from ..workload import Call, Inputs, Workload
from .base import Provider


class JaxScan(Provider):
    """`jax.lax.scan` in a jitted function, on the CPU with torch's number of threads.

    In an inference the weights are constants of the compiled function. Training computes its
    gradients by `jax.vjp` in the same function.
    """

    name = "jax scan"
    devices = ("cpu",)
    compiles = True

    def unavailable_reason(self, device: str) -> str | None:
        return None if find_spec("jax") else "jax is not installed"

    def unsupported_reason(self, case: Case, device: str) -> str | None:
        if case.scope != "layer":
            return "its function includes the input projection"
        if case.step == "forward":
            return "a compiled function computes either the output or the gradients too"
        return "a scan has no packed rows" if case.shape.packed else None

    def prepare(self, workload: Workload) -> Call:
        jax, shape = _start(torch.get_num_threads()), workload.shape
        weights = [_to_jax(weight) for weight in workload.layer.parameters()]
        if workload.case.step == "inference":
            constants = _transposed(weights)
            infer = jax.jit(lambda x: (_network(x, constants, shape),))
            xs = workload.converted(lambda inputs: _to_jax(inputs.leaf))
            return lambda inputs: jax.block_until_ready(infer(xs(inputs)))

        @jax.jit
        def train(grad: Any, x: Any, *weights: Any) -> tuple[Any, ...]:
            out, vjp = jax.vjp(
                lambda x, *weights: _network(x, _transposed(weights), shape), x, *weights
            )
            return out, *vjp(grad)

        pairs = workload.converted(lambda inputs: (_to_jax(inputs.grad), _to_jax(inputs.leaf)))

        def call(inputs: Inputs) -> Any:
            return jax.block_until_ready(train(*pairs(inputs), *weights))

        return call

    def tensors(self, results: Any, workload: Workload) -> list[Tensor]:
        return [torch.from_dlpack(result) for result in results]


@cache
def _start(threads: int) -> Any:
    """Import and start JAX with a number of threads.

    Raises:
        RuntimeError: it was started before with another number, which cannot be changed.
    """
    import jax

    if _start.cache_info().currsize:
        raise RuntimeError("JAX keeps the number of threads that it was started with")
    jax.config.update("jax_platforms", "cpu")
    # A call waits for its result. Another thread that computes it would only add a hand-off.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(threads)  # XLA reads it once, for its pool of threads
    try:
        jax.devices()
    finally:
        del os.environ["NPROC"]
        if before is not None:
            os.environ["NPROC"] = before
    return jax


def _to_jax(x: Tensor) -> Any:
    """Return the same memory as an array."""
    import jax

    return jax.dlpack.from_dlpack(x.detach().contiguous())


def _transposed(weights: Sequence[Any]) -> list[Any]:
    """Transpose the matrices among the parameters of a layer."""
    return [weight.T if weight.ndim == 2 else weight for weight in weights]


def _network(x: Any, weights: Sequence[Any], shape: Shape) -> Any:
    """Return the output [T, B, D·H] of all layers."""
    import jax.numpy as jnp

    for layer in range(shape.layers):
        outs = []
        for direction in range(shape.directions):
            first = 4 * (layer * shape.directions + direction)
            outs.append(_scan(x, weights[first : first + 4], shape, reverse=direction == 1))
        x = jnp.concatenate(outs, -1) if len(outs) > 1 else outs[0]
    return x


def _scan(x: Any, weights: Sequence[Any], shape: Shape, reverse: bool) -> Any:
    """Return the output [T, B, H] of one direction of a layer."""
    import jax
    import jax.numpy as jnp

    weight_ih, weight_hh, bias_ih, bias_hh = weights  # [I, K·H], [H, K·H], [K·H] twice
    is_gru = shape.cell == "gru"
    pre = x @ weight_ih + (bias_ih if is_gru else bias_ih + bias_hh)
    zeros = jnp.zeros((x.shape[1], shape.H), x.dtype)
    step = _STEPS[shape.cell](weight_hh, bias_hh, shape)
    start = (zeros, zeros) if shape.cell == "lstm" else (zeros,)
    return jax.lax.scan(step, start, pre, reverse=reverse)[1]


#: A step from the state and pre to the next state and h.
Step = Callable[[tuple[Any, ...], Any], tuple[tuple[Any, ...], Any]]


def _rnn(weight_t: Any, bias: Any, shape: Shape) -> Step:
    import jax
    import jax.numpy as jnp

    act = jnp.tanh if shape.activation == "tanh" else jax.nn.relu

    def step(state: tuple[Any, ...], pre: Any) -> tuple[tuple[Any, ...], Any]:
        h = act(pre + state[0] @ weight_t)
        return (h,), h

    return step


def _lstm(weight_t: Any, bias: Any, shape: Shape) -> Step:
    import jax
    import jax.numpy as jnp

    def step(state: tuple[Any, ...], pre: Any) -> tuple[tuple[Any, ...], Any]:
        h, c = state
        i, f, g, o = jnp.split(pre + h @ weight_t, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return step


def _gru(weight_t: Any, bias: Any, shape: Shape) -> Step:
    import jax
    import jax.numpy as jnp

    def step(state: tuple[Any, ...], pre: Any) -> tuple[tuple[Any, ...], Any]:
        (h,) = state
        pre_r, pre_z, pre_n = jnp.split(pre, 3, -1)
        product_r, product_z, q = jnp.split(h @ weight_t + bias, 3, -1)
        r, z = jax.nn.sigmoid(pre_r + product_r), jax.nn.sigmoid(pre_z + product_z)
        n = jnp.tanh(pre_n + r * q)
        h = n + z * (h - n)
        return (h,), h

    return step


_STEPS = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}
