"""Compile Triton kernels for sm_90 without a GPU, and launch them in the emulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from triton.runtime.driver import driver

from tools.kernel_stats import Device

from . import access, matrix  # noqa: F401  # imported to register their handlers
from .errors import Deadlock
from .machine import Machine, decode
from .memory import Global
from .parser import parse

CAPABILITY = 90
ENDED = object()


class Emulated:
    """A drop-in replacement for a kernel, launched as `kernel[grid](*arguments, **constants)`.

    It takes CPU tensors.

    Args:
        kernel: The result of triton.jit or gluon.jit.
        seed: Seeds the interleaving of programs and the initial contents of shared memory.
        edit: Transforms the PTX before it runs.
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
        # None, and an integer of 1 that Triton may specialize the kernel on, are compiled in.
        types = compiled.src.signature.values()
        given = [x for x, kind in zip(arguments, types, strict=False) if kind != "constexpr"]
        run(ptx, programs, given, shared, launch_cooperative_grid, self.random)


def run(
    ptx: str,
    programs: int,
    arguments: Sequence[torch.Tensor | int],
    shared: int,
    concurrent: bool,
    random: np.random.Generator,
) -> None:
    """Run the only kernel in `ptx`.

    Args:
        ptx: A PTX module.
        programs: Number of programs (CTAs).
        arguments: The first of the kernel's parameters.
        shared: Bytes of shared memory per program.
        concurrent: Whether to interleave the programs. Otherwise they run one after another in
            random order, and accesses of different programs can still race.
        random: Source of the interleaving and of the initial contents of shared memory.
    """
    program = parse(ptx)
    code = decode(program)
    memory = Global([a for a in arguments if isinstance(a, torch.Tensor)], programs)
    values = [memory.address(a) if isinstance(a, torch.Tensor) else int(a) for a in arguments]
    machines = [
        Machine(program, code, i, programs, values, shared, memory, random) for i in range(programs)
    ]
    if concurrent:
        _interleave(machines, random)
    else:
        for i in random.permutation(programs):
            _interleave([machines[i]], random)
    memory.copy_back()


def _interleave(machines: list[Machine], random: np.random.Generator) -> None:
    """Run the machines in turns of random length, so that one can get far ahead of another.

    Raises:
        Deadlock: All machines that are still running wait.
    """
    running = {machine: machine.run() for machine in machines}
    while running:
        runnable = [machine for machine in running if not machine.waiting]
        if not runnable:
            raise Deadlock(f"{len(running)} of {len(machines)} programs wait forever")
        chosen = runnable[random.integers(len(runnable))]
        for _ in range(random.geometric(0.1 ** random.integers(5))):
            if chosen.waiting:
                break
            if next(running[chosen], ENDED) is ENDED:
                del running[chosen]
                break
