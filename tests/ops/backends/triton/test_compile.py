"""The Triton kernels as the compiler makes them, for GPUs that need not be there.

Every configuration the table can choose fits into shared memory, keeps its values in registers,
and uses the matrix unit where it should; no run-time size is known to the compiler.
"""

import functools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

pytest.importorskip("triton")
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("the interpreter takes the compiler's place", allow_module_level=True)

from fastrnn.ops.backends.triton.table import TABLE
from tools.kernel_stats import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    LAYOUTS,
    RUN_TIME,
    Case,
    cases,
    compile_case,
    measure,
)


def drawn(every: Iterable[Case], of_each: Callable[[Case], object] = lambda _: ()) -> list[Case]:
    """One of all cases that differ only in device, dtype, layout or activation; always the same.

    Args:
        of_each: what they may not differ in either.
    """
    alike: dict[tuple, list[Case]] = {}
    for case in every:
        one = (*(case.kernel, case.direction, case.mode, case.hidden), of_each(case))
        alike.setdefault((*one, case.configuration, case.at_once), []).append(case)
    draw = random.Random(0)
    return [draw.choice(variations) for variations in alike.values()]


#: A few sizes, on one architecture.
QUICK = [case for case in cases([(9, 0)]) if case.hidden in (95, 256, 1000)]

ALL = list(cases(DEVICES, LAYOUTS, ACTIVATIONS, DTYPES["half"]))

#: Every configuration in both directions, each in one of its variations: on some architecture, and
#: on all of them.
SWEEP = drawn(ALL)
FULL_SWEEP = drawn(ALL, lambda case: case.capability)

slow = functools.partial(pytest.param, marks=pytest.mark.slow)

#: One case of each kernel, and of each as it is for calls with resets.
KERNELS = list({(case.kernel, case.direction): case for case in QUICK}.values())
WITH_RESETS = [replace(case, layout="packed", resets=True) for case in KERNELS]

#: Every configuration with resets, each in one of its variations.
RESETS_SWEEP = drawn(replace(case, resets=True) for case in ALL)

#: Bytes of shared memory a program has at the least, on compute capability 8.6, 8.9 and 12.0.
LEAST_SHARED = 101376

#: Bytes a thread may spill. ptxas likes to stop at a round number of registers, 64, 128 or 168, and
#: lays a few values by. In dense data with H up to 1024 none that the step loop needs; and none at
#: all of a program that has a multiprocessor to itself, on 9.0.
SPILLED = 32


def most_shared(case: Case) -> int:
    """What the table grants; grid's configurations ask the device itself."""
    if case.kernel == "grid":
        return case.limit
    row = next(
        row
        for row in TABLE
        if row.kernel == case.kernel and case.mode in row.modes and case.hidden <= row.hidden
    )
    return row.shared or LEAST_SHARED


def check(case: Case) -> None:
    stats = measure(case)
    assert stats.shared <= most_shared(case) <= case.limit
    assert stats.spilled <= SPILLED
    if case.layout == "dense" and case.hidden <= 1024:
        assert stats.local == 0
        if case.kernel != "grid" and case.capability == (9, 0):
            assert stats.spilled == 0
    assert (stats.matrix > 0) == (case.kernel != "rows")


@pytest.mark.parametrize("case", [*QUICK, *map(slow, WITH_RESETS)], ids=str)
def test_resources(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SWEEP, ids=str)
def test_resources_of_every_configuration(case: Case) -> None:
    check(case)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", FULL_SWEEP + RESETS_SWEEP, ids=str)
def test_resources_on_every_architecture(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("value", [1, 16, 17])
@pytest.mark.parametrize("case", [*KERNELS, *map(slow, WITH_RESETS)], ids=str)
def test_no_size_is_compiled_in(case: Case, value: int) -> None:
    assert compile_case(case, **dict.fromkeys(RUN_TIME, value)) is compile_case(case)


@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_multiply_adds_are_fused(case: Case) -> None:
    """Because it is asked for: what Triton does by default is to change."""
    assert dict(case.configuration)["enable_fp_fusion"]
    assert compile_case(case).metadata.enable_fp_fusion


@pytest.mark.parametrize(
    "module", ["fastrnn", "fastrnn.ops.backends.triton", "fastrnn.ops.backends.triton.table"]
)
def test_import_leaves_triton_alone(module: str) -> None:
    code = f"import sys, torch; torch_has = 'triton' in sys.modules; import {module}\n"
    code += "sys.exit(not torch_has and 'triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
