"""Mutants, which are kernels with a bug, and the problems that detect the bug."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastrnn.testing import Problem
from tests.emulators.cuda.build import SOURCES
from tests.emulators.cuda.emulated import Emulated, tiling_for
from tests.emulators.cuda.server import EmulationError
from tests.ops.backends.cuda.test_edge_cases import check
from tests.ops.backends.cuda.test_emulated import ELEMENTS
from tests.utils.checks import check_recurrence, check_recurrence_backward

SEEDS = 20  # schedules of each problem

CHECKS_OF_CELLS = {"forward": check_recurrence, "backward": check_recurrence_backward}

#: By strategy, a pattern of the launcher's lines that choose an instance, and the text of the lines
#: to keep. A single instance compiles in a tenth of the time of all instances.
INSTANCES = {
    "cluster": (r"^ +(case|default).* return (launch_|with_rows).*\n", ("RESIDENT, 1>", "int, 4>")),
    "grid": (r"^ +case \d.* return launch_.*\n", ("<E, P, 1, 4>",)),
    "step": (r"^.* return launch_steps<.*\n", ("<E, P, 1>",)),
}


@dataclass(frozen=True)
class Kernel:
    strategy: str
    direction: str
    element: str = "bfloat16"
    resets: bool = False
    cell: str = "RNN"  #: the kind of a `Problem`

    def __str__(self) -> str:
        return f"{self.source}-{self.direction}"

    @property
    def source(self) -> str:
        if self.cell != "RNN":
            return f"{self.strategy}_{self.cell.lower()}_{self.element}"
        return f"{self.strategy}_{'resets_' * self.resets}{self.element}"

    @property
    def parameters(self) -> str:
        """The kernel's parameters."""
        name = self.direction.title()
        return name if self.cell == "RNN" else f"Cell{name}Of<"

    def build(self, changed: Mapping[str, Mapping[str, str]]) -> Emulated:
        """Build one instance. `changed` maps files of csrc/cuda to {old text: new text}."""
        pattern, instances = INSTANCES[self.strategy]
        source = f"instances/{self.source}.cu"
        texts = {
            f"{self.strategy}.h": keep_lines(self.text(f"{self.strategy}.h"), pattern, instances),
            source: keep_lines(self.text(source), r"^template .*\n", (f"const {self.parameters}",)),
        }
        for file, replacements in changed.items():
            text = texts.get(file) or self.text(file)
            for old, new in replacements.items():
                assert text.count(old) == 1, f"{file} must contain exactly once: {old}"
                text = text.replace(old, new)
            texts[file] = text
        return Emulated({f"cuda/{file}": text for file, text in texts.items()})

    @staticmethod
    def text(file: str) -> str:
        return (SOURCES / "cuda" / file).read_text()


def keep_lines(text: str, pattern: str, kept: tuple[str, ...]) -> str:
    """Remove the lines that match `pattern` and contain none of `kept`."""
    lines = [match[0] for match in re.finditer(pattern, text, re.MULTILINE)]
    for part in kept:
        assert any(part in line for line in lines), f"no line that matches {pattern} has {part}"
    for line in lines:
        if not any(part in line for part in kept):
            text = text.replace(line, "")
    return text


class Runs:
    """A problem, its tiling, and the values that poison its inputs."""

    def __init__(
        self,
        hidden: int,
        steps: int = 5,
        batch: int = 3,
        layout: str = "dense",
        reverse: bool = False,
        relu: bool = False,
        poisoned: Mapping[str, float] | None = None,
        processors: int = 8,
        **tiling: int,
    ) -> None:
        self._problem: dict[str, Any] = {
            "steps": steps,
            "batch": batch,
            "groups": 1,
            "hidden": hidden,
            "layout": layout,
            "activation": "relu" if relu else "tanh",
            "reverse_from": 0 if reverse else 1,
        }
        self._poisoned = dict(poisoned or {})
        self._processors = processors
        self._tiling = tiling

    def first_failure(self, module: Emulated, kernel: Kernel) -> Exception | None:
        """Return the first failure among the schedules of the first seeds."""
        dtype, mode = ELEMENTS[kernel.element]
        options: dict[str, Any] = {"strategy": kernel.strategy, "processors": self._processors}
        if kernel.strategy != "step":
            hidden = self._problem["hidden"]
            gates = 1
            if kernel.direction == "backward":
                gates = Problem(**self._problem, kind=kernel.cell).cell.gates
            options["tiling"] = tiling_for(
                kernel.strategy, hidden, dtype, gates=gates, **self._tiling
            )
        for seed in range(SEEDS):
            problem = Problem(
                **self._problem, dtype=dtype, seed=seed, resets=kernel.resets, kind=kernel.cell
            )
            try:
                if kernel.cell == "RNN":
                    given = kernel.direction, problem, mode, self._poisoned, module
                    check(*given, seed=seed, **options)
                else:
                    check_cell = CHECKS_OF_CELLS[kernel.direction]
                    check_cell(module, problem, mode=mode, seed=seed, **options)
            except (AssertionError, EmulationError) as failure:
                return failure
        return None


@dataclass(frozen=True)
class Mutant:
    name: str
    kernel: Kernel
    file: str
    replacements: Mapping[str, str]
    runs: Runs
    detected: str  # pattern of the failure's message
    quick: bool = False
