"""Compile the Triton kernels for several GPUs, without one, and check the machine code.

Every configuration that the table can choose fits into shared memory, keeps its values in registers
and uses tensor cores where it should. No size that varies at run time is compiled in.
"""

import functools
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

pytest.importorskip("triton")
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

from fastrnn.ops.backends.triton.table import TABLE
from tools.kernel_stats import (
    ACTIVATIONS,
    CELLS,
    DEVICES,
    DTYPES,
    LAYOUTS,
    RUN_TIME,
    Case,
    cases,
    compile_case,
    dump,
    measure,
)
from tools.sass import spilled


def sample(cases: Iterable[Case], key: Callable[[Case], object] = lambda _: ()) -> list[Case]:
    """Pick one case of each kernel, direction, cell and number of units; the same in every run.

    Args:
        cases: The cases to choose from.
        key: Cases with different keys are in different groups, too.
    """
    groups: dict[tuple, list[Case]] = {}
    for case in cases:
        group = (case.kernel, case.direction, case.hidden, case.cell, key(case))
        groups.setdefault(group, []).append(case)
    draw = random.Random(0)
    return [draw.choice(variations) for variations in groups.values()]


def configuration(case: Case) -> tuple[object, ...]:
    return case.mode, case.configuration, case.at_once


#: A few sizes on one architecture.
QUICK = [case for case in cases([(9, 0)]) if case.hidden in (95, 256, 1000)]

ALL = list(cases(DEVICES, LAYOUTS, ACTIVATIONS, DTYPES["half"]))

#: A case of each kernel and size, and every configuration on every architecture.
SWEEP = sample(ALL)
FULL_SWEEP = sample(ALL, lambda case: (configuration(case), case.capability))

slow = functools.partial(pytest.param, marks=pytest.mark.slow)

#: One case of each kernel, without and with resets.
KERNELS = list({(case.kernel, case.direction): case for case in QUICK}.values())
WITH_RESETS = [replace(case, layout="packed", resets=True) for case in KERNELS]

#: The same of cells that save gates, with and without resets. Those of a quick run have resets.
CELL_CASES = list(cases(DEVICES, LAYOUTS, ACTIVATIONS, DTYPES["half"], cells=CELLS))
CELL_CASES += [replace(case, resets=True) for case in CELL_CASES]
QUICK_CELLS = [
    case
    for kernel, cell, hidden in (("rows", "LSTM", 64), ("single_cta", "GRU", 128))
    for case in cases([(9, 0)], ["packed"], resets=True, cells=[cell])
    if (case.kernel, case.hidden, case.mode) == (kernel, hidden, "half")
]
CELL_SWEEP = sample(CELL_CASES)
FULL_CELL_SWEEP = sample(
    CELL_CASES, lambda case: (configuration(case), case.capability, case.resets)
)

#: Every configuration with resets, each in one variation.
RESETS_SWEEP = sample((replace(case, resets=True) for case in ALL), configuration)

#: The smallest shared memory limit per program, in bytes: on compute capability 8.6, 8.9 and 12.0.
MIN_SHARED = 101376

#: Bytes that a thread may spill. ptxas tends to stop at a round number of registers, 64, 128 or
#: 168, and to spill a few values. For dense data with H up to 1024, the step loop uses none of
#: them. On compute capability 9.0, a program that has a multiprocessor to itself spills nothing.
MAX_SPILLED = 32

#: The same in `single_cta` for several gates of an odd number of more than 64 units: rows are
#: aligned to no more than an element, so every element needs its own address.
MAX_SPILLED_BY_ODD_GATES = 160


def max_shared(case: Case) -> int:
    """Return the bytes that the table allows; grid's configurations use the device's limit."""
    if case.kernel == "grid":
        return case.limit
    row = next(
        row
        for row in TABLE
        if row.kernel == case.kernel
        and case.mode in row.modes
        and case.hidden <= row.hidden
        and dict(case.configuration).get("K", 0) in row.gates
    )
    return row.shared or MIN_SHARED


#: A product on tensor cores, in PTX.
PRODUCT = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")


def check(case: Case) -> None:
    """Check a case's resources, and disassemble it, which takes a while, only if it spills."""
    compiled = compile_case(case)
    assert compiled.metadata.shared <= max_shared(case) <= case.limit
    assert bool(PRODUCT.search(compiled.asm["ptx"])) == (case.kernel != "rows")
    several = case.kernel == "single_cta" and case.cell in ("LSTM", "GRU")
    odd = several and case.hidden > 64 and case.hidden % 2
    bytes_spilled = spilled(dump(case, "-res-usage"))
    assert bytes_spilled <= (MAX_SPILLED_BY_ODD_GATES if odd else MAX_SPILLED)
    if odd or bytes_spilled == 0:
        return
    if case.layout == "dense" and case.hidden <= 1024:
        assert measure(case).local == 0
        assert case.kernel == "grid" or case.capability != (9, 0)


@pytest.mark.parametrize(
    "case",
    [
        *KERNELS,
        *QUICK_CELLS,
        *map(slow, WITH_RESETS),
        *(slow(case) for case in QUICK if case not in KERNELS),
    ],
    ids=str,
)
def test_resources(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [*KERNELS, *QUICK_CELLS, *map(slow, WITH_RESETS)], ids=str)
def test_the_loop_over_the_steps_has_the_products(case: Case) -> None:
    assert (measure(case).matrix > 0) == (case.kernel != "rows")


@pytest.mark.slow
@pytest.mark.parametrize("case", SWEEP + CELL_SWEEP, ids=str)
def test_resources_of_every_size(case: Case) -> None:
    check(case)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", FULL_SWEEP + FULL_CELL_SWEEP + RESETS_SWEEP, ids=str)
def test_resources_of_every_configuration(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("value", [1, 16, 17])
@pytest.mark.parametrize("case", [*KERNELS, *QUICK_CELLS, *map(slow, WITH_RESETS)], ids=str)
def test_no_size_is_compiled_in(case: Case, value: int) -> None:
    assert compile_case(case, **dict.fromkeys(RUN_TIME, value)) is compile_case(case)


@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_multiply_adds_are_fused(case: Case) -> None:
    """The kernels request fusion, since Triton's default is going to change."""
    assert dict(case.configuration)["enable_fp_fusion"]
    assert compile_case(case).metadata.enable_fp_fusion


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        # Importing the table imports the packages around it.
        "fastrnn.ops.backends.triton.table",
        pytest.param("fastrnn.ops.backends.triton", marks=pytest.mark.exhaustive),
        pytest.param("fastrnn", marks=pytest.mark.exhaustive),
    ],
)
def test_import_does_not_import_triton(module: str) -> None:
    code = f"import sys, torch; torch_has = 'triton' in sys.modules; import {module}\n"
    code += "sys.exit(not torch_has and 'triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
