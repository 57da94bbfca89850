"""Who computes a case: every backend of fastrnn, and what torch offers beside it.

A provider is one small class. peers.py holds those that need another package, and the list of all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

import fastrnn
from fastrnn import FusedRNN
from fastrnn.functional import recurrence
from fastrnn.ops.backends import base as backends
from fastrnn.ops.backends import dispatch
from fastrnn.ops.reference import ACTIVATION_CODES, ACTIVATIONS

from .modes import MODES, precision
from .shapes import Case
from .task import Call, Task, of_layer, stepped


class Provider:
    """One who computes cases."""

    name: str

    #: The types of devices that it computes on.
    devices: tuple[str, ...] = ("cpu", "cuda")

    #: Whether its first call takes long for another reason than that its calls do.
    compiles = False

    #: Whether it keeps what a call allocated for the next one, so that its peak cannot be seen.
    keeps_memory = False

    def absent(self, device: str) -> str | None:
        """Why it cannot compute anything here, on a device of a type that it knows, or None."""
        return None

    def refuses(self, case: Case, device: str) -> str | None:
        """Why it cannot compute this case, or None."""
        return None

    def task(self, task: Task) -> Task:
        """The task as this provider can do it, which is also what its result is held to."""
        return task

    def prepare(self, task: Task) -> Call:
        """All that is done once; the call is what is timed."""
        raise NotImplementedError

    def using(self) -> AbstractContextManager[object]:
        """A context in which its calls are made."""
        return nullcontext()

    def __str__(self) -> str:
        return self.name


class Fastrnn(Provider):
    """FusedRNN, or of a recurrence alone the function it is made of, by one backend."""

    def __init__(self, backend: str = "auto") -> None:
        self.backend = backend
        self.name = "fastrnn" if backend == "auto" else f"fastrnn.{backend}"
        self.devices = {"cpu": ("cpu",), "cuda": ("cuda",), "triton": ("cuda",)}.get(
            backend, self.devices
        )

    def absent(self, device: str) -> str | None:
        if self.backend == "auto":
            reasons = [kernels.unavailable_reason() for kernels in dispatch.AUTO.get(device, ())]
            return None if None in reasons else f"it has no kernel here: {'; '.join(reasons)}"
        return dispatch.BACKENDS[self.backend].unavailable_reason()

    def refuses(self, case: Case, device: str) -> str | None:
        work = case.work
        sizes = work.T, work.B, work.groups * work.directions, work.H
        where = MODES[case.mode].dtype, torch.device(device)
        call = backends.Call(f"RNN_{work.activation.upper()}", *sizes, *where)
        with precision(case.mode):
            if self.backend != "auto":
                return dispatch.BACKENDS[self.backend].unsupported_reason(call)
            kernels, reasons = dispatch.best_kernels(call)
        if kernels is not None:
            return None
        return f"auto takes no kernel of ours: {'; '.join(reasons.values())}"

    def prepare(self, task: Task) -> Call:
        work, step = task.work, task.case.step
        if task.case.scope == "layer":
            layer = FusedRNN(
                work.I, work.H, work.layers, work.activation, bidirectional=work.bidirectional
            ).to(task.device, task.dtype)
            layer.load_state_dict(task.layer.state_dict())
            return of_layer(layer, step)
        weights = [task.weight_hh, task.h0]
        return stepped(
            step, lambda pre: recurrence(pre, *weights, activation=work.activation)[0], weights
        )

    def using(self) -> AbstractContextManager[object]:
        return fastrnn.use_backend(self.backend)


class NnRnn(Provider):
    """torch.nn.RNN as shipped; on a GPU that is cuDNN.

    It has no recurrence alone: of a layer with one input feature the rest costs next to nothing.
    """

    name = "nn.RNN"

    def refuses(self, case: Case, device: str) -> str | None:
        return "nn.RNN has no heads" if case.work.groups > 1 else None

    def task(self, task: Task) -> Task:
        if task.case.scope == "layer":
            return task
        case = replace(task.case, scope="layer", work=replace(task.work, I=1))
        return Task(case, task.device, task.steps)

    def prepare(self, task: Task) -> Call:
        return of_layer(task.layer, task.case.step)


class Flattened(NnRnn):
    """nn.RNN in bfloat16 with its weights in one piece, as cuDNN wants them.

    `flatten_parameters` passes bfloat16 over, so that as shipped they are copied at every call.
    """

    name = "nn.RNN flattened"
    devices = ("cuda",)

    def refuses(self, case: Case, device: str) -> str | None:
        if case.mode != "bfloat16":
            return "nn.RNN flattens all but bfloat16 by itself"
        return super().refuses(case, device)

    def prepare(self, task: Task) -> Call:
        layer, work = task.layer, task.work
        mode = 0 if work.activation == "relu" else 1  # as torch.backends.cudnn.rnn numbers them
        with torch.no_grad():
            torch._cudnn_rnn_flatten_weight(
                layer._flat_weights,
                4,  # two weights and two biases
                work.I,
                mode,
                work.H,
                0,  # no projection
                work.layers,
                False,  # time first
                work.bidirectional,
            )
        return super().prepare(task)


class EagerLoop(Provider):
    """The loop that a user would write: a matrix product, an addition and an activation a step."""

    name = "eager loop"

    def refuses(self, case: Case, device: str) -> str | None:
        plain = case.work.layers == case.work.directions == 1 and not case.work.packed
        return None if plain else "it is written for one layer of rows of one length"

    def prepare(self, task: Task) -> Call:
        activation = task.work.activation
        if task.case.scope == "layer":
            weight_ih, weight_hh, *biases = weights = list(task.layer.parameters())
            h0 = weight_hh.new_zeros(task.work.B, task.work.H)

            def output(x: Tensor) -> Tensor:
                pre = F.linear(x, weight_ih, sum(biases))
                return self.loop(pre, weight_hh.t(), h0, activation)

            return stepped(task.case.step, output, weights)
        weights = [task.weight_hh, task.h0]

        def alone(pre: Tensor) -> Tensor:
            if task.work.groups == 1:
                weight_t = task.weight_hh[0].t()
                return self.loop(pre[:, :, 0], weight_t, task.h0[:, 0], activation).unsqueeze(2)
            heads_first = pre.transpose(1, 2), task.weight_hh.mT, task.h0.transpose(0, 1)
            return self.loop(*heads_first, activation).transpose(1, 2)

        return stepped(task.case.step, alone, weights)

    def loop(self, pre: Tensor, weight_t: Tensor, h: Tensor, activation: str) -> Tensor:
        return steps(pre, weight_t, h, activation)


def steps(
    pre: Tensor,  # [T, B, H], or of heads [T, G, B, H]
    weight_t: Tensor,  # [H, H], [G, H, H]: W_hh transposed
    h: Tensor,  # [B, H], [G, B, H]
    activation: str,
) -> Tensor:
    """The loop: out, shaped as pre."""
    act = ACTIVATIONS[ACTIVATION_CODES[activation]]
    plus_product = torch.addmm if h.dim() == 2 else torch.baddbmm
    out = []
    for now in pre.unbind():
        h = act(plus_product(now, h, weight_t))
        out.append(h)
    return torch.stack(out)


class CompiledLoop(EagerLoop):
    """The same, compiled by torch.compile sixteen steps at a time.

    All at once would take it minutes where T is in the hundreds; one by one, its calls would cost
    more than the steps. `torch._higher_order_ops.scan` is no rival yet: in torch 2.13 inductor
    compiles it for inference alone, and the loop is faster.
    """

    name = "torch.compile"
    compiles = True
    unrolled = 16

    @cached_property
    def _of_any_size(self) -> Callable[..., Tensor]:
        return torch.compile(steps, dynamic=True)

    def prepare(self, task: Task) -> Call:
        if task.is_trial:  # one compilation for all
            self._compiled = self._of_any_size
        else:
            torch._dynamo.reset()
            self._compiled = torch.compile(steps)
        return super().prepare(task)

    def loop(self, pre: Tensor, weight_t: Tensor, h: Tensor, activation: str) -> Tensor:
        out = []
        for part in pre.split(self.unrolled):
            out.append(self._compiled(part, weight_t, h, activation))
            h = out[-1][-1]
        return torch.cat(out)
