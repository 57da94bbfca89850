"""A stand-in for a Triton kernel: compiles it for a GPU that need not be there, and emulates it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from triton.runtime.driver import driver

from tools.kernel_stats import Device

from . import access, matrix  # noqa: F401  # they register what they handle
from .errors import Deadlock
from .machine import Machine, decode
from .memory import Global
from .parser import parse

CAPABILITY = 90
ENDED = object()


class Emulated:
    """Called as the kernel is, with tensors of the CPU: `kernel[grid](*arguments, **constants)`.

    Args:
        kernel: what triton.jit or gluon.jit made.
        seed: of the order in which the programs of a launch have their turns, and of garbage.
        edit: what to do to the PTX before it is run.
    """

    def __init__(
        self, kernel: Any, seed: int = 0, edit: Callable[[str], str] = lambda ptx: ptx
    ) -> None:
        self.kernel = kernel
        self.random = np.random.default_rng(seed)
        self.edit = edit

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        return partial(self._launch, grid[0])

    def _launch(
        self,
        programs: int,
        *arguments: Any,
        launch_cooperative_grid: bool = False,
        **constants: Any,
    ) -> None:
        with mock.patch.object(driver, "_active", Device(CAPABILITY)):
            compiled = self.kernel.warmup(*arguments, grid=(1,), **constants)
        ptx, shared = self.edit(compiled.asm["ptx"]), compiled.metadata.shared
        run(ptx, programs, arguments, shared, launch_cooperative_grid, self.random)


def run(
    ptx: str,
    programs: int,
    arguments: Sequence[torch.Tensor | int | None],
    shared: int,
    together: bool,
    random: np.random.Generator,
) -> None:
    """So many programs of the only kernel in `ptx`, with `shared` bytes of shared memory each.

    Args:
        arguments: but for None, the first of the kernel's parameters.
        together: all at the same time; otherwise one after the other, though in no known order, so
            that what they share may race all the same.
    """
    program = parse(ptx)
    code = decode(program)
    given = [a for a in arguments if a is not None]
    memory = Global([a for a in given if isinstance(a, torch.Tensor)], programs)
    values = [memory.address(a) if isinstance(a, torch.Tensor) else int(a) for a in given]
    machines = [
        Machine(program, code, i, programs, values, shared, memory, random) for i in range(programs)
    ]
    if together:
        _take_turns(machines, random)
    else:
        for i in random.permutation(programs):
            _take_turns([machines[i]], random)
    memory.copy_back()


def _take_turns(machines: list[Machine], random: np.random.Generator) -> None:
    """In turns as random as their lengths: one may be far ahead before another begins.

    Raises:
        Deadlock: all that are left wait.
    """
    left = {machine: machine.run() for machine in machines}
    while left:
        able = [machine for machine in left if not machine.waiting]
        if not able:
            raise Deadlock(f"{len(left)} of {len(machines)} programs wait for ever")
        chosen = able[random.integers(len(able))]
        for _ in range(random.geometric(0.1 ** random.integers(5))):
            if chosen.waiting:
                break
            if next(left[chosen], ENDED) is ENDED:
                del left[chosen]
                break
