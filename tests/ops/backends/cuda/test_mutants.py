"""Broken kernels, each of which the emulator must detect.

A mutant is a kernel with a mistake. It runs a problem under twenty schedules, and must give a wrong
result or an error under one of them. The kernel without the mistake, built in the same way, must be
correct under all of them. A seed determines a schedule.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.emulators.cuda.emulated import Emulated

from . import mutants, mutants_resets
from .mutants import BENIGN, CLUSTER, CLUSTER_BACKWARD
from .mutation import Kernel, Mutant, Runs

MUTANTS = [*mutants.MUTANTS, *mutants_resets.MUTANTS]


def runs_of(kernel: Kernel) -> list[Runs]:
    return [mutant.runs for mutant in MUTANTS if mutant.kernel == kernel]


@pytest.fixture
def built() -> Iterator[Callable[..., Emulated]]:
    with contextlib.ExitStack() as stack:

        def build(kernel: Kernel, changed: Mapping[str, Mapping[str, str]]) -> Emulated:
            return stack.enter_context(contextlib.closing(kernel.built(changed)))

        yield build


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(
            mutant,
            marks=[] if mutant.quick else pytest.mark.slow,
            id=f"{mutant.kernel}-{mutant.name}",
        )
        for mutant in MUTANTS
    ],
)
def test_detected(mutant: Mutant, built: Callable[..., Emulated]) -> None:
    module = built(mutant.kernel, {mutant.file: mutant.replaced})
    fault = mutant.runs.first_fault(module, mutant.kernel)
    assert fault is not None
    assert re.search(mutant.detected, str(fault)), fault


@pytest.mark.slow
@pytest.mark.parametrize("kernel", {mutant.kernel: None for mutant in MUTANTS}, ids=str)
def test_correct(kernel: Kernel, built: Callable[..., Emulated]) -> None:
    module = built(kernel, {})
    for runs in runs_of(kernel):
        assert runs.first_fault(module, kernel) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", BENIGN)
@pytest.mark.parametrize("kernel", [CLUSTER, CLUSTER_BACKWARD], ids=str)
def test_benign(kernel: Kernel, name: str, built: Callable[..., Emulated]) -> None:
    file, replaced = BENIGN[name]
    module = built(kernel, {file: replaced})
    for runs in runs_of(kernel):
        assert runs.first_fault(module, kernel) is None
