"""The shapes that are measured, in groups by their source.

`select` makes cases of them; `python -m benchmarks shapes` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from .cells import CELLS
from .shapes import STEPS, Case, Shape, recurrence_flops


@dataclass(frozen=True)
class Group:
    """Shapes from one source, and how they are measured."""

    about: str
    shapes: tuple[Shape, ...]
    scope: str = "layer"
    steps: tuple[str, ...] = ("inference", "training")
    cpu: tuple[str, ...] = ("float32",)  #: modes on a CPU; empty: not measured on it
    cuda: tuple[str, ...] = ("float32", "tf32", "bfloat16", "float16")
    baselines: str = "most"  #: "few": nn.RNN; "most": all but those that compile for minutes; "all"
    memory: bool = False  #: whether peak memory is also measured

    def modes(self, device: str) -> tuple[str, ...]:
        return self.cpu if device == "cpu" else self.cuda


def _heads(steps: int, batch: int, head: int, heads: int) -> Shape:
    return Shape(steps, batch, head, head, groups=heads)


def _square(steps: int, batch: int, hidden: int, **traits: Any) -> Shape:
    return Shape(steps, batch, hidden, hidden, **traits)


#: The cells with gates.
GATED = ("lstm", "gru")


def _with_cell(cell: str, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """Return the same sizes with another cell. Only nn.RNN has a choice of activations."""
    return tuple(
        replace(shape, cell=cell, activation=shape.activation if cell == "rnn" else "tanh")
        for shape in shapes
    )


def _gated(*shapes: Shape) -> tuple[Shape, ...]:
    """Return the shapes with each of the cells with gates."""
    return tuple(shape for cell in GATED for shape in _with_cell(cell, shapes))


HALF = ("bfloat16", "float16")
FLOAT32 = ("float32", "tf32")
LENGTHS = (128, 512, 2048, 8192, 32768, 65536)
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

#: One row and many, from small to large; other libraries are known to be fast in some of them.
ANCHORS = (
    _square(100, 1, 64),
    _square(100, 32, 128),
    _square(8, 1, 16),
    _square(64, 64, 512),
    _square(100, 32, 128, packed=True),
)

MIXED = (
    _square(1, 1, 16),
    _square(1000, 1, 16),
    _square(1000, 1, 64),
    Shape(200, 1, 33, 100),
    _square(500, 1, 128),
    _square(512, 1, 256),
    _square(100, 8, 64),
    _square(128, 32, 50, activation="relu"),
    Shape(500, 16, 16, 100),
    Shape(100, 4, 32, 128),
    _square(100, 32, 128),
    _square(100, 32, 128, layers=2, bidirectional=True),
    _square(100, 32, 128, packed=True),
    _square(50, 16, 256),
    _square(100, 64, 256),
    _square(50, 64, 391),
    _square(64, 16, 512),
    _square(128, 64, 512),
    _square(64, 32, 1024),
)

GROUPS: dict[str, Group] = {
    "overview": Group(
        "small to large layers, the README's table",
        (
            _square(1000, 1, 64),
            _square(100, 8, 64),
            _square(100, 32, 64),
            _square(100, 32, 128),
            _square(512, 1, 256),
            _square(100, 64, 256),
            _square(128, 64, 512),
            _square(128, 32, 1024),
        ),
        baselines="all",
        memory=True,
    ),
    "neuro": Group(
        "task-trained networks of computational neuroscience: T 100 to 2000, B 32 to 256, "
        "H 50 to 500",
        (
            Shape(100, 32, 8, 50),
            Shape(500, 64, 16, 100),
            Shape(1000, 32, 8, 50, activation="relu"),
            Shape(2000, 64, 4, 128, activation="relu"),
            Shape(200, 256, 32, 256),
            Shape(500, 64, 32, 500),
        ),
        steps=STEPS,
        cuda=FLOAT32,
        baselines="all",
    ),
    "fusion": Group(
        "the layers of fastrnn.fusion: its text encoder, and its fusion of 4 to 64 tokens",
        (
            Shape(100, 32, 64, 128),
            Shape(4, 32, 128, 64),
            Shape(16, 32, 256, 64),
            Shape(64, 32, 256, 64),
        ),
        steps=STEPS,
        baselines="all",
    ),
    "mixed": Group(
        "from one row to wide layers, including odd sizes and a single step",
        MIXED,
        cuda=(),
    ),
    **{
        name: Group(
            f"nn.{CELLS[name].layer} at one row and many, from small to large, and packed rows",
            _with_cell(name, ANCHORS),
            cuda=("float32", "bfloat16"),
            baselines="all",
        )
        for name in CELLS
    },
    **{
        f"mixed-{name}": Group(
            f"the shapes of the group mixed with the cell of nn.{CELLS[name].layer}",
            _with_cell(name, MIXED),
            cuda=(),
        )
        for name in GATED
    },
    "gated-packed": Group(
        "packed rows of the cells with gates",
        _gated(
            _square(200, 16, 256, packed=True),
            _square(100, 32, 128, layers=2, bidirectional=True, packed=True),
        ),
        cuda=("float32", "bfloat16"),
    ),
    "gated-half": Group(
        "the cells with gates in half precision",
        _gated(_square(100, 1, 64), _square(100, 32, 128), _square(64, 64, 512)),
        cpu=("bfloat16",),
        cuda=HALF,
    ),
    "gated-cudnn": Group(
        "the cells with gates where cuDNN changes its algorithm, on a GPU",
        _gated(*(_square(1024, B, H) for B in (1, 16, 64) for H in (64, 128, 256, 512, 768, 1024))),
        cpu=(),
    ),
    "stacks": Group(
        "short calls of small layers and stacks on a GPU, where launches take most of the time",
        tuple(
            shape
            for cell in ("rnn", "lstm")
            for shape in _with_cell(
                cell,
                [_square(T, 16, 64, layers=L) for L, T in product((1, 4), (8, 32, 100))],
            )
        ),
        cpu=(),
        cuda=("tf32", "float16"),
        baselines="few",
    ),
    "structure": Group(
        "layers, directions and packed rows",
        tuple(
            _square(steps, batch, hidden, **traits)
            for steps, batch, hidden in ((100, 32, 128), (200, 16, 256))
            for traits in (
                {"layers": 2},
                {"bidirectional": True},
                {"layers": 2, "bidirectional": True},
                {"packed": True},
                {"layers": 2, "bidirectional": True, "packed": True},
            )
        ),
    ),
    "short": Group(
        "one to eight steps: the overhead of a call",
        tuple(
            _square(T, B, H)
            for T, (B, H) in product(
                (1, 2, 4, 8), ((1, 16), (1, 128), (32, 64), (128, 8), (128, 256))
            )
        ),
        cuda=("float32", "bfloat16"),
    ),
    "flaggems": Group(
        "the benchmarks of FlagGems' rnn_tanh, and those of its GRU",
        (
            _square(16, 4, 32),
            _square(32, 8, 64),
            _square(64, 16, 128),
            _square(100, 64, 512),
            _square(100, 256, 512),
            _square(128, 16, 256, layers=2),
        ),
        cpu=("float32", "bfloat16", "float16"),
        cuda=("float32", "bfloat16", "float16"),
    ),
    "haste": Group(
        "haste's benchmark of its LSTM: B 1 to 128, H 64 to 512, 50 steps, 64 input features",
        tuple(Shape(50, B, 64, H) for B, H in product((1, 32, 64, 128), (64, 128, 256, 512))),
        cuda=("float32",),
    ),
    "flashrnn": Group(
        "FlashRNN's head_dim, batch_size and sequence_length figures: 768 units in heads",
        (
            *(_heads(1024, 16, 768 // n, n) for n in (48, 24, 12, 6, 3, 1)),
            *(_heads(1024, B, 768 // n, n) for n, B in product((12, 1), (2, 8, 32, 64, 128, 256))),
            *(_heads(T, 16, 768 // n, n) for n, T in product((12, 1), (256, 512, 2048))),
        ),
        scope="recurrence",
        cuda=HALF,
    ),
    "flashrnn-elman": Group(
        "the tests of FlashRNN's Elman network, over 256 steps",
        tuple(_square(256, B, H) for H, B in product((32, 64, 512, 1024), (2, 8, 16, 64))),
        scope="recurrence",
        cuda=("float32", "bfloat16"),
    ),
    "xma": Group(
        "XMA's recurrent layer: 64 heads of 16",
        (_heads(4096, 16, 16, 64),),
        scope="recurrence",
        cuda=("float32",),
    ),
    "cudnn": Group(
        "where cuDNN changes its algorithm: H 256, 384, 1024; B 1, 8, 96, 128; packed rows, "
        "layers, directions; and small H, where it keeps the weights in registers",
        (
            *(_square(1024, 16, H) for H in (32, 64, 128, 256, 768)),
            *(_square(512, 64, H) for H in (256, 264, 384, 392, 512, 768, 896, 1024, 1152, 2048)),
            *(_square(512, B, 512) for B in (1, 8, 12, 96, 128, 136)),
            *(_square(512, B, 1024) for B in (8, 96)),
            _square(512, 64, 512, packed=True),
            _square(512, 64, 512, layers=2),
            _square(512, 64, 512, bidirectional=True),
            _square(512, 64, 256, layers=2, bidirectional=True),
        ),
        cpu=(),
        baselines="few",
    ),
    "length": Group(
        "growth with T",
        tuple(_square(T, 8, 64) for T in LENGTHS),
        baselines="all",
        memory=True,
    ),
    "width": Group(
        "growth with H",
        tuple(_square(100, B, H) for B, H in product((1, 32), (*WIDTHS, 2048))),
        scope="recurrence",
        baselines="all",
    ),
    "batch": Group(
        "growth with B",
        tuple(_square(100, B, 128) for B in (1, 4, 16, 64, 256, 1024)),
        scope="recurrence",
    ),
    "grid": Group(
        "B by H over fifty steps: the map of speed-ups",
        tuple(_square(50, B, H) for B, H in product(BATCHES, WIDTHS)),
        cpu=("float32", "bfloat16"),
        baselines="few",
    ),
}

#: Names for several groups.
SELECTIONS: dict[str, tuple[str, ...]] = {
    "quick": ("overview", "lstm", "gru"),
    "cells": (*CELLS, "mixed", *(f"mixed-{name}" for name in GATED), "gated-packed", "gated-half"),
    "full": tuple(GROUPS),
}

#: Larger shapes are not measured on a CPU, where a forward pass takes seconds, or even minutes.
MAX_CPU_FLOPS = 100e9


def names(selection: str) -> list[str]:
    """Return the groups in a comma-separated list of groups and selections, each once.

    Raises:
        ValueError: a name is unknown.
    """
    chosen: dict[str, None] = {}
    for name in selection.split(","):
        if name not in GROUPS and name not in SELECTIONS:
            known = ", ".join((*SELECTIONS, *GROUPS))
            raise ValueError(f"unknown shapes {name!r}; choose from {known}")
        chosen |= dict.fromkeys(SELECTIONS.get(name, (name,)))
    return list(chosen)


def select(
    selection: str, device: str, scopes: Sequence[str] = ("layer", "recurrence")
) -> list[Case]:
    """Return the cases of a selection on a type of device, in the order of `GROUPS`."""
    cases = []
    for name in names(selection):
        group = GROUPS[name]
        if group.scope not in scopes:
            continue
        for shape in group.shapes:
            if device == "cpu" and recurrence_flops(shape) > MAX_CPU_FLOPS:
                continue
            for mode in group.modes(device):
                cases += [Case(name, group.scope, shape, mode, step) for step in group.steps]
    return cases
