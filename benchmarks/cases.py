"""What is measured: shapes, and one training or inference step of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn


class Shape(NamedTuple):
    """One layer's work."""

    T: int  #: steps
    B: int  #: batch rows
    I: int  # noqa: E741  #: input features
    H: int  #: hidden units

    def __str__(self) -> str:
        return f"({self.T}, {self.B}, {self.I}, {self.H})"


CPU_SHAPES = (
    Shape(1000, 1, 64, 64),
    Shape(100, 8, 64, 64),
    Shape(100, 32, 64, 64),
    Shape(100, 32, 128, 128),
    Shape(512, 1, 256, 256),
    Shape(100, 64, 256, 256),
    Shape(128, 64, 512, 512),
    Shape(128, 32, 1024, 1024),
)


def inference(layer: nn.Module, shape: Shape) -> Callable[[], torch.Tensor]:
    """The layer's output, with no gradient recorded."""
    x = torch.randn(shape.T, shape.B, shape.I)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return layer(x)[0]

    return run


def training(layer: nn.Module, shape: Shape) -> Callable[[], torch.Tensor]:
    """The output and all gradients: of the parameters and of the input."""
    x = torch.randn(shape.T, shape.B, shape.I, requires_grad=True)
    grad = torch.randn(shape.T, shape.B, shape.H)

    def run() -> torch.Tensor:
        layer.zero_grad()
        x.grad = None
        output = layer(x)[0]
        output.backward(grad)
        return output

    return run


STEPS = {"inference": inference, "training": training}
