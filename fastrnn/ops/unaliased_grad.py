"""Gradients that share no memory, for layers that autograd differentiates operation by operation.

Autograd gives both terms of a sum the same gradient, and the parts of a concatenation views of one
gradient. Users clip a gradient in place, free it or save it, so each must own its memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._eager import is_recording
from ._when_imported import when_imported
from .recurrence import LIBRARY

# Inductor removes a clone if it considers the result an alias of the input; with two such clones
# the results would in fact share memory. It does not remove this operator.
LIBRARY.define("copy(Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
LIBRARY.impl("copy", lambda x: x.clone(), "CompositeExplicitAutograd")
torch.library.register_fake("fastrnn::copy", lambda x: x.clone(), lib=LIBRARY)
torch.library.register_vmap(
    "fastrnn::copy", lambda info, dims, x: (torch.ops.fastrnn.copy(x), dims[0]), lib=LIBRARY
)


class _UnaliasedGrad(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.ops.fastrnn.copy(grad) if torch.compiler.is_compiling() else grad.clone()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)


def unaliased_grad(x: Tensor) -> Tensor:
    """Return x such that its gradient shares no memory with other gradients."""
    exporting = torch.compiler.is_compiling() and torch.compiler.is_exporting()
    if exporting or torch.jit.is_tracing() or not is_recording(x):
        return x  # exported and traced programs are for inference
    return _apply(x)


def _apply(x: Tensor) -> Tensor:
    return _UnaliasedGrad.apply(x)


# Dynamo rejects a Function with a jvp, and warns about any other. AOTAutograd can trace both.
when_imported("torch._dynamo", lambda dynamo: dynamo.allow_in_graph(_apply))
