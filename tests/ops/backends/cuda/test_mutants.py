"""Mutation tests: the emulator must detect every broken kernel.

A mutant is a kernel with a bug. It runs a problem under twenty schedules, and must give a wrong
result or an error under at least one. The kernel without the bug, built in the same way, must be
correct under all schedules. A seed determines a schedule.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.emulators.cuda.emulated import Emulated

from . import mutants, mutants_cells, mutants_resets
from .mutants import BENIGN, CLUSTER, CLUSTER_BACKWARD
from .mutation import Kernel, Mutant, Runs

MUTANTS = [*mutants.MUTANTS, *mutants_resets.MUTANTS, *mutants_cells.MUTANTS]


def runs_of(kernel: Kernel) -> list[Runs]:
    return [mutant.runs for mutant in MUTANTS if mutant.kernel == kernel]


@pytest.fixture
def build() -> Iterator[Callable[..., Emulated]]:
    with contextlib.ExitStack() as stack:

        def build_kernel(kernel: Kernel, changed: Mapping[str, Mapping[str, str]]) -> Emulated:
            return stack.enter_context(contextlib.closing(kernel.build(changed)))

        yield build_kernel


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(
            mutant,
            # Only a change of the kernels or of the emulator can affect the others.
            marks=[] if mutant.quick else pytest.mark.exhaustive,
            id=f"{mutant.kernel}-{mutant.name}",
        )
        for mutant in MUTANTS
    ],
)
def test_detected(mutant: Mutant, build: Callable[..., Emulated]) -> None:
    module = build(mutant.kernel, {mutant.file: mutant.replacements})
    failure = mutant.runs.first_failure(module, mutant.kernel)
    assert failure is not None
    assert re.search(mutant.detected, str(failure)), failure


@pytest.mark.exhaustive
@pytest.mark.parametrize("kernel", {mutant.kernel: None for mutant in MUTANTS}, ids=str)
def test_correct(kernel: Kernel, build: Callable[..., Emulated]) -> None:
    module = build(kernel, {})
    for runs in runs_of(kernel):
        assert runs.first_failure(module, kernel) is None


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", BENIGN)
@pytest.mark.parametrize("kernel", [CLUSTER, CLUSTER_BACKWARD], ids=str)
def test_benign(kernel: Kernel, name: str, build: Callable[..., Emulated]) -> None:
    file, replacements = BENIGN[name]
    module = build(kernel, {file: replacements})
    for runs in runs_of(kernel):
        assert runs.first_failure(module, kernel) is None
