"""Broken kernels, each of which the emulator must notice.

A mutant is a kernel with a mistake in it, and problems under twenty schedules; under one of them it
must give a wrong result or end with an error. The kernel without the mistake, made in the same way,
must be right under all of them. The same seed is the same schedule.
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
def test_noticed(mutant: Mutant, built: Callable[..., Emulated]) -> None:
    module = built(mutant.kernel, {mutant.file: mutant.replaced})
    fault = mutant.runs.first_fault(module, mutant.kernel)
    assert fault is not None
    assert re.search(mutant.noticed, str(fault)), fault


@pytest.mark.slow
@pytest.mark.parametrize("kernel", {mutant.kernel: None for mutant in MUTANTS}, ids=str)
def test_right(kernel: Kernel, built: Callable[..., Emulated]) -> None:
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
