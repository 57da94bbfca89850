"""Runs the CUDA kernels in the emulator of this folder, as functions of CPU tensors.

`forward`, `backward`, `recurrence` and `recurrence_backward` have the signatures of a backend, with
keywords for the kernel, its tiling and its schedule. So `checks.py` works with this module, and
with an `Emulated` of changed sources.

`build.py` compiles them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fastrnn.ops.arguments import Arguments, Gradients, Outputs, State, arguments
from fastrnn.ops.cells import CELLS
from fastrnn.ops.cells.base import Step
from fastrnn.ops.reference import accumulation_dtype

from .build import EMULATOR, SOURCES, build
from .server import Server

DTYPES = {
    torch.bfloat16: "Bfloat16",
    torch.float16: "Float16",
    torch.float32: "Float32",
    torch.float64: "Float64",
}


#: The ends of the names of a stack's tensors, layer by layer.
NUMBERS = ("", *map(str, range(1, 8)))

#: The names of cells in csrc/cuda/instances.
FILES = {
    "LSTM": "lstm",
    "GRU": "gru",
    "LEAKY_TANH": "leaky",
    "LEAKY_RELU": "leaky",
    "LEAKY_PRE_TANH": "leaky_pre",
    "LEAKY_PRE_RELU": "leaky_pre",
}


@dataclass(frozen=True)
class Tiling:
    """How W_hh and the batch are tiled: see csrc/cuda/plan.h."""

    blocks: int = 1
    m_tiles: int = 1
    splits: int = 1
    resident: int = 4
    streamed: int = 0
    rows: int = 8
    layers: int = 1
    at_once: int = 1  #: tiles of the batch, `Plan::at_once`


def tiling_for(
    strategy: str,
    hidden: int,
    dtype: torch.dtype,
    *,
    gates: int = 1,
    blocks: int = 1,
    m_tiles: int = 1,
    splits: int = 1,
    resident: int = 4,
    rows: int = 8,
    at_once: int = 1,
) -> Tiling:
    """A tiling that covers `hidden` units: of `blocks` (cluster) or of `m_tiles` a block (grid).

    `gates`: of the product's depth, so 1 in the forward of every cell.
    """
    tiles = -(-hidden // 16)
    if strategy == "cluster":
        m_tiles = max(1, -(-tiles // blocks))
    else:
        blocks = max(1, -(-tiles // m_tiles))
    row = hidden * dtype.itemsize
    if gates > 1:  # each is padded to 16 bytes
        row = gates * (-(-row // 16) * 16)
    depth = 2 * -(-row // (64 * splits))
    streamed = max(0, depth - resident)
    return Tiling(blocks, m_tiles, splits, resident, streamed, rows, at_once=at_once)


class Emulated:
    """The kernels as a backend. Each is compiled when it is first called.

    Args:
        changed: replaced texts of source files, by their paths in csrc.
    """

    def __init__(self, changed: Mapping[str, str] | None = None) -> None:
        self._changed = dict(changed or {})
        self._servers: dict[str, Server] = {}

    def forward(
        self, pre: Tensor, weight_hh: Tensor, h0: Tensor, *given: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """The forward of nn.RNN's cells, see `Kernels.forward`; `options` as in `_run`."""
        return self.recurrence(pre, arguments(weight_hh, h0, *given), save=False, **options)[:2]

    def backward(
        self,
        grad_out: Tensor,
        grad_h_n: Tensor,
        out: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        *given: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """The backward of nn.RNN's cells, see `Kernels.backward`."""
        grads, saved = Outputs(grad_out, grad_h_n), Step(State(out))
        of_cell = arguments(weight_hh, h0, *given)
        return self.recurrence_backward(grads, saved, of_cell, **options)[:2]

    def recurrence(self, pre: Tensor, arguments: Arguments, save: bool, **options: Any) -> Outputs:
        """The operator's forward, see `Kernels.recurrence`; `options` as in `_run`.

        With `in_place`, the results begin in the memory of pre: out, or the saved gates.
        """
        inputs = {"pre": pre, **_named(arguments)}
        in_place = "out"
        if CELLS[arguments.mode].saves:
            in_place = "gates" if save else "-"
        shapes = _shapes_of_results(pre, arguments, save)
        results = self._run("forward", inputs, shapes, arguments, in_place, **options)
        return Outputs(*(results.get(name) for name in Outputs._fields))

    def stack(
        self,
        pre: Tensor,
        layers: Sequence[tuple[Arguments, Mapping[str, Tensor | None]]],
        save: bool,
        **options: Any,
    ) -> list[Outputs]:
        """The forward of a stack in one launch.

        `layers`: the arguments of each, and by their names the weights of its input projection, and
        of the first the input. `pre` has the shape of theirs.
        """
        inputs: dict[str, Tensor | None] = {"pre": pre}
        shapes: dict[str, Sequence[int]] = {}
        for number, (of_layer, more) in zip(NUMBERS, layers, strict=False):
            named = {**_named(of_layer), **more}
            inputs |= {f"{name}{number}": x for name, x in named.items()}
            results = _shapes_of_results(pre, of_layer, save)
            shapes |= {f"{name}{number}": shape for name, shape in results.items()}
        arguments, _ = layers[0]
        found = self._run(
            "forward", inputs, shapes, arguments, "-", replaced={"pre": None}, **options
        )
        return [
            Outputs(*(found.get(f"{name}{number}") for name in Outputs._fields))
            for number in NUMBERS[: len(layers)]
        ]

    def recurrence_backward(
        self, grads: Outputs, saved: Step, arguments: Arguments, **options: Any
    ) -> Gradients:
        """The operator's backward, see `Kernels.recurrence_backward`."""
        inputs = _inputs_of_backward(grads, saved, arguments)
        shapes = _shapes_of_gradients(saved.state.h, arguments)
        results = self._run("backward", inputs, shapes, arguments, "grad_pre", **options)
        return _gradients(results, saved.state.h.dtype)

    def stack_backward(
        self,
        layers: Sequence[tuple[Outputs, Step, Arguments, Mapping[str, Tensor | None]]],
        **options: Any,
    ) -> list[Gradients]:
        """The backward of a stack in one launch.

        `layers`: the arguments of `recurrence_backward` for each, from the last layer down. All but
        the first have no gradient of `out`, and by its name the W_ih of the layer above.
        """
        inputs: dict[str, Tensor | None] = {}
        shapes: dict[str, Sequence[int]] = {}
        for number, (grads, saved, of_layer, more) in zip(NUMBERS, layers, strict=False):
            named = {**_inputs_of_backward(grads, saved, of_layer), **more}
            inputs |= {f"{name}{number}": x for name, x in named.items()}
            results = _shapes_of_gradients(saved.state.h, of_layer)
            shapes |= {f"{name}{number}": shape for name, shape in results.items()}
        _, saved, arguments, _ = layers[0]
        found = self._run("backward", inputs, shapes, arguments, "-", **options)
        dtype = saved.state.h.dtype
        return [_gradients(found, dtype, number) for number in NUMBERS[: len(layers)]]

    def close(self) -> None:
        """End the processes."""
        for server in self._servers.values():
            server.close()

    def _run(
        self,
        direction: str,
        inputs: Mapping[str, Tensor | None],
        results: Mapping[str, Sequence[int]],  # shapes
        arguments: Arguments,
        first_result: str,  # that of `in_place`
        *,
        strategy: str,  # "cluster", "grid", "step" or "rows"
        replaced: Mapping[str, Tensor | None] | None = None,  # inputs, by name
        heads: int | None = None,  # of a direction; all groups if None
        tiling: Tiling | None = None,  # unused by step and rows
        tf32: bool = False,
        in_place: bool = False,  # the first input is also a result
        misaligned: bool = False,  # all tensors begin one element beyond a multiple of 256 bytes
        seed: int = 0,  # of the schedule
        processors: int = 8,
        blocks_per_processor: int = 1,
        running: int = 8,  # maximum blocks of an ordinary launch at once
    ) -> dict[str, Tensor]:
        given = {name: x for name, x in {**inputs, **(replaced or {})}.items() if x is not None}
        data = inputs.get("pre", inputs.get("out"))
        assert data is not None
        batch, groups, hidden = arguments.h0.shape
        element = "Tf32" if tf32 else DTYPES[data.dtype]
        dtypes = dict.fromkeys(results, data.dtype)
        for name in results:
            if "_sum" in name:
                dtypes[name] = accumulation_dtype(data.dtype)
        sizes = [math.prod(shape) * dtypes[name].itemsize for name, shape in results.items()]
        header = {
            "pass": direction,
            "kernel": f"{strategy}.{element}",
            "cell": arguments.mode,
            "T": arguments.ragged().steps(data),
            "B": batch,
            "G": groups,
            "H": hidden,
            "reverse_from": arguments.reverse_from,
            "heads": groups if heads is None else heads,
            "I": given["input"].shape[-1] if "input" in given else 0,
            "inputs": ",".join(f"{name}:{x.nbytes}" for name, x in given.items()),
            "outputs": ",".join(map("{}:{}".format, results, sizes)),
            "in_place": first_result if in_place else "-",
            "misaligned": int(misaligned),
            "seed": seed,
            "processors": processors,
            "blocks_per_processor": blocks_per_processor,
            "running": running,
            **{field.name: getattr(tiling or Tiling(), field.name) for field in fields(Tiling)},
        }
        kind = FILES.get(CELLS[arguments.mode].mode, "" if arguments.resets is None else "resets")
        if "input" in given or (tiling and tiling.layers > 1):
            kind = "projected"
        if strategy == "rows":
            kind = ""
        source = "_".join(filter(None, (strategy, kind, element.lower())))
        answer = self._server(source).call(header, [_bytes(x) for x in given.values()], sizes)
        return {
            name: torch.frombuffer(got, dtype=dtypes[name]).reshape(shape)
            if got
            else data.new_empty(shape, dtype=dtypes[name])
            for got, (name, shape) in zip(answer, results.items(), strict=True)
        }

    def _server(self, source: str) -> Server:
        """The server of the kernels of a file in csrc/cuda/instances."""
        if source not in self._servers:
            sources = [*EMULATOR, SOURCES / "cuda" / "instances" / f"{source}.cu"]
            self._servers[source] = Server(build(source, sources, self._changed))
        return self._servers[source]


def _inputs_of_backward(
    grads: Outputs, saved: Step, arguments: Arguments
) -> dict[str, Tensor | None]:
    inputs = {"grad_out": grads.out, "grad_h_n": grads.h_n, "grad_c_n": grads.c_n}
    of_step = {"out": saved.state.h, "gates": saved.gates, "inner": saved.inner}
    return {**inputs, **of_step, **_named(arguments)}


def _shapes_of_gradients(out: Tensor, arguments: Arguments) -> dict[str, Sequence[int]]:
    """The shapes of what a backward returns."""
    cell, h0 = CELLS[arguments.mode], arguments.h0
    pre = *out.shape[:-1], cell.gates * out.shape[-1]
    shapes: dict[str, Sequence[int]] = {"grad_pre": pre, "grad_h0": h0.shape}
    if cell.has_c:
        shapes["grad_c0"] = h0.shape
    if cell.has_unit_param:
        shapes["grad_unit_param"] = out.shape
    for name, start in (("h", arguments.reset_h), ("c", arguments.reset_c)):
        if start is not None:
            shapes[f"reset_{name}_sum"] = h0.shape
    return shapes


def _gradients(results: Mapping[str, Tensor], dtype: torch.dtype, number: str = "") -> Gradients:
    names = "grad_pre", "grad_h0", "grad_c0", "grad_unit_param", "reset_h_sum", "reset_c_sum"
    gradients = (results.get(f"{name}{number}") for name in names)
    return Gradients(*(x if x is None else x.to(dtype) for x in gradients))


def _shapes_of_results(pre: Tensor, arguments: Arguments, save: bool) -> dict[str, Sequence[int]]:
    """The shapes of what a forward returns."""
    cell, h0 = CELLS[arguments.mode], arguments.h0
    shapes: dict[str, Sequence[int]] = {"out": (*pre.shape[:-1], h0.shape[-1]), "h_n": h0.shape}
    if cell.has_c:
        shapes["c_n"] = h0.shape
    if cell.saves and save:
        shapes["gates"] = pre.shape
        if cell.has_inner:
            shapes["inner"] = shapes["out"]
    return shapes


def _named(arguments: Arguments) -> dict[str, Tensor | None]:
    return dict(zip(Arguments._fields, arguments.tensors(), strict=False))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


_unchanged = Emulated()
forward = _unchanged.forward
backward = _unchanged.backward
recurrence = _unchanged.recurrence
recurrence_backward = _unchanged.recurrence_backward
stack = _unchanged.stack
stack_backward = _unchanged.stack_backward
