"""All providers, and those that need a package of their own: present where it can be imported.

haste is not among them: it has no vanilla recurrent network (LSTM, GRU, IndRNN and a layer norm).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from .modes import MODES
from .providers import CompiledLoop, EagerLoop, Fastrnn, Flattened, NnRnn, Provider
from .shapes import Case
from .task import Call, Inputs, Task, stepped


class OnnxRuntime(Provider):
    """ONNX Runtime's RNN operator on the CPU, with torch's number of threads. Inference alone."""

    name = "onnxruntime"
    devices = ("cpu",)
    keeps_memory = True

    def absent(self, device: str) -> str | None:
        missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
        return f"{missing[0]} is not installed" if missing else None

    def refuses(self, case: Case, device: str) -> str | None:
        if case.step != "inference":
            return "ONNX Runtime has inference alone"
        if case.scope != "layer":
            return "its operator has the input's product in it"
        if case.mode != "float32":
            return "its operator has float32 alone"
        if case.work.packed:
            return "it takes padded rows"
        return None

    def prepare(self, task: Task) -> Call:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Else its threads go on spinning for a while, at the cost of whoever's turn is next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(
            _onnx_model(task), options, providers=["CPUExecutionProvider"]
        )

        def call(inputs: Inputs) -> list[Tensor]:
            (out,) = session.run(None, {"x": inputs.leaf.numpy()})
            return [torch.from_numpy(out)]

        return call


def _onnx_model(task: Task) -> bytes:
    """x [T, B, I] -> out [T, B, D·H], as one RNN node a layer."""
    from onnx import TensorProto, helper, numpy_helper

    work = task.work
    directions = work.directions
    nodes, constants = [], []

    def constant(name: str, value: Tensor) -> str:
        constants.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name

    flat = constant("flat", torch.tensor([0, 0, -1]))
    at = "x"
    for layer, weights in enumerate(_by_layer(task)):
        weight_ih, weight_hh, bias = (
            constant(f"{name}_{layer}", value)
            for name, value in zip(("weight_ih", "weight_hh", "bias"), weights, strict=True)
        )
        nodes += [
            helper.make_node(
                "RNN",
                [at, weight_ih, weight_hh, bias],
                [f"y_{layer}"],
                hidden_size=work.H,
                direction="bidirectional" if directions == 2 else "forward",
                activations=[work.activation.capitalize()] * directions,
            ),
            # [T, D, B, H] -> [T, B, D·H]
            helper.make_node("Transpose", [f"y_{layer}"], [f"z_{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"z_{layer}", flat], [f"out_{layer}"]),
        ]
        at = f"out_{layer}"
    graph = helper.make_graph(
        nodes,
        "rnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, work.I])],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, None)],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def _by_layer(task: Task) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each layer weight_ih [D, H, I], weight_hh [D, H, H] and both biases [D, 2H]."""
    found = []
    for layer in range(task.work.layers):
        suffixes = [f"l{layer}", f"l{layer}_reverse"][: task.work.directions]
        stacked = [
            torch.stack([getattr(task.layer, f"{name}_{suffix}") for suffix in suffixes])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        found.append((*stacked[:2], torch.cat(stacked[2:], dim=1)))
    return found


class FlashRnn(Provider):
    """FlashRNN's Elman network: the recurrence alone, compiled for every shape at its first call.

    Args:
        backend: as FlashRNN names its own.
    """

    devices = ("cuda",)
    compiles = True

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.name = f"FlashRNN {backend}"

    def absent(self, device: str) -> str | None:
        return None if find_spec("flashrnn") else "flashrnn is not installed"

    def refuses(self, case: Case, device: str) -> str | None:
        if case.scope != "recurrence":
            return "FlashRNN has the recurrence alone"
        if case.work.activation != "tanh":
            return "FlashRNN's Elman network has tanh alone"
        if case.mode == "float32":
            return "FlashRNN has no strict float32"
        return None

    def prepare(self, task: Task) -> Call:
        from flashrnn.flashrnn.flashrnn import FlashRNNConfig, flashrnn

        work = task.work
        config = FlashRNNConfig(
            backend=self.backend,
            function="elman",
            num_heads=work.groups,
            head_dim=work.H,
            batch_size=work.B,
            input_shape="TBGHD",
            output_shape="STBHD",
            dtype=str(MODES[task.case.mode].dtype).removeprefix("torch."),
        )
        bias = task.h0.new_zeros(1, work.groups, work.H)

        def output(pre: Tensor) -> Tensor:
            states = task.h0[None, None]  # [1 state, 1 step, B, heads, H]
            weights = task.weight_hh[None], bias  # of the one gate there is
            return flashrnn(pre.unsqueeze(2), *weights, states, config=config)[0][0]

        return stepped(task.case.step, output, [task.weight_hh, task.h0])


#: Beside how many peers shapes are measured; each level has those before it too.
LEVELS = ("few", "most", "all")

_PROVIDERS: dict[str, tuple[Provider, ...]] = {
    "few": (Fastrnn(), Fastrnn("cuda"), Fastrnn("triton"), NnRnn(), Flattened()),
    "most": (EagerLoop(), OnnxRuntime(), FlashRnn("cuda_fused"), FlashRnn("cuda")),
    "all": (Fastrnn("cpu"), Fastrnn("reference"), CompiledLoop()),
}


def named(names: Sequence[str]) -> list[Provider]:
    """The providers of these names."""
    every = {provider.name: provider for level in LEVELS for provider in _PROVIDERS[level]}
    return [every[name] for name in names]


def providers(level: str, device: str) -> tuple[list[Provider], dict[str, str]]:
    """Those of a level on a device's type, and why the others are absent, by name."""
    known = [p for name in LEVELS[: LEVELS.index(level) + 1] for p in _PROVIDERS[name]]
    wanted = [provider for provider in known if device in provider.devices]
    reasons = {provider.name: provider.absent(device) for provider in wanted}
    absent = {name: reason for name, reason in reasons.items() if reason is not None}
    return [provider for provider in wanted if provider.name not in absent], absent
