"""The shape of a network, and a case: one configuration to measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .cells import CELLS, Cell

STEPS = ("inference", "forward", "training")


@dataclass(frozen=True)
class Shape:
    """The sizes and options of a recurrent network."""

    T: int  #: steps
    B: int  #: batch rows
    I: int  # noqa: E741  #: input features
    H: int  #: hidden units
    layers: int = 1
    bidirectional: bool = False
    packed: bool = False  #: a PackedSequence of rows with very different lengths
    groups: int = 1  #: independent recurrences (heads), which nn.RNN does not have
    activation: str = "tanh"  #: of nn.RNN; the other cells have their own
    cell: str = "rnn"  #: one of `cells.CELLS`

    @property
    def directions(self) -> int:
        return 1 + self.bidirectional

    @property
    def of_cell(self) -> Cell:
        """The sizes and names of its cell."""
        return CELLS[self.cell]

    @property
    def layer_arguments(self) -> dict[str, Any]:
        """The arguments of its layer, torch's or ours."""
        return {
            "input_size": self.I,
            "hidden_size": self.H,
            "num_layers": self.layers,
            "bidirectional": self.bidirectional,
            **({"nonlinearity": self.activation} if self.cell == "rnn" else {}),
        }

    @property
    def traits(self) -> tuple[str, ...]:
        """The options that differ from the defaults."""
        return (
            *([self.cell] if self.cell != "rnn" else []),
            *([f"{self.layers}-layer"] if self.layers > 1 else []),
            *(["bidirectional"] if self.bidirectional else []),
            *(["packed"] if self.packed else []),
            *([f"{self.groups}-heads"] if self.groups > 1 else []),
            *([self.activation] if self.activation != "tanh" else []),
        )

    def __str__(self) -> str:
        return " ".join((f"({self.T}, {self.B}, {self.I}, {self.H})", *self.traits))

    @property
    def id(self) -> str:
        """The same without spaces, for option -k."""
        return "-".join((f"{self.T}x{self.B}x{self.I}x{self.H}", *self.traits))

    def to_json(self) -> dict[str, Any]:
        """The sizes, and the options that differ from the defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}


@dataclass(frozen=True)
class Case:
    """One configuration to measure: all providers of a case compute the same results."""

    group: str
    scope: str  #: "layer"; "recurrence", without the input projection; "kernel", a single kernel
    shape: Shape
    mode: str  #: one of `precision.MODES`
    step: str  #: one of STEPS; of a kernel "forward" or "backward"

    def __str__(self) -> str:
        return f"{self.shape} {self.mode} {self.step}"


def recurrence_flops(shape: Shape) -> float:
    """Return the FLOPs of the recurrent matrix products in a forward pass."""
    recurrences = shape.layers * shape.directions * shape.groups * shape.of_cell.gates
    return 2.0 * shape.T * shape.B * recurrences * shape.H**2
