"""Compile the Triton kernels for sm_90, and run them in the emulator of tests/emulators/ptx.

It covers cases that the interpreter cannot: races, missing fences, programs that wait for each
other, bfloat16, the hardware's instructions, and the Gluon kernel. The docstring of the emulator
lists its limitations.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

from fastrnn.ops.backends import triton
from fastrnn.ops.backends.triton import grid, rows, single_cta, single_cta_gluon
from fastrnn.ops.backends.triton.table import Sizes
from fastrnn.testing import Problem
from tests.emulators.ptx import Deadlock, Emulated, Invalid, Race
from tests.utils.checks import CHECKS, check_special_gradients

MODULES = (single_cta, single_cta_gluon, rows, grid)
KERNELS = {(m, d): getattr(m, d) for m in MODULES for d in ("forward", "backward")}
EVERY_GRID = grid.configurations
SIZES_OF = triton.sizes_of
H100 = {"capability": (9, 0), "shared": 232448, "processors": 132}
UNLIMITED = 10**6  # more programs than any launch has

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True)
def emulate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Emulate every launch; call the fixture to change the seed, the room or the PTX."""
    monkeypatch.setattr(triton, "sizes_of", lambda call: SIZES_OF(call)._replace(**H100))

    def configure(seed: int = 0, room: int = UNLIMITED, **options: Any) -> None:
        for (module, direction), kernel in KERNELS.items():
            monkeypatch.setattr(module, direction, Emulated(kernel, seed, **options))
        monkeypatch.setattr(grid, "room", lambda *_: room)

    configure()
    return configure


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Force configurations that are otherwise chosen only for other batch sizes or devices."""

    def gluon(tile: int) -> None:
        chosen = single_cta_gluon.configuration

        def configuration(sizes: Sizes) -> dict[str, Any]:
            return {**chosen(sizes), "ROWS": tile}

        monkeypatch.setattr(single_cta_gluon, "configuration", configuration)

    def resident_or_streamed(resident: bool, tile: int) -> None:
        def configurations(sizes: Sizes) -> list[dict[str, Any]]:
            form = resident, tile
            found = [c for c in EVERY_GRID(sizes) if (c["RESIDENT"], c["ROWS"]) == form]
            assert found, "not a configuration of these sizes"
            return found

        monkeypatch.setattr(grid, "configurations", configurations)

    return lambda *form: (gluon if len(form) == 1 else resident_or_streamed)(*form)


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
exhaustive = functools.partial(pytest.param, marks=pytest.mark.exhaustive)


def name(value: object) -> str:
    """Return the pytest ID of a parameter."""
    parts = [value]
    if isinstance(value, Problem):
        *parts, resets = dataclasses.astuple(value)
        parts += ["resets"] if resets else []
    return "-".join(str(part).removeprefix("torch.") for part in parts)


# One, two, three and more steps, since the loop prefetches three steps ahead. Batches with a
# partial last tile, and hidden sizes for which rows are aligned to 2, 4, 8 and 16 bytes.
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("tile", "problem"),
    [
        (16, Problem(5, 19, 2, 64, "dense", "tanh", 1, BF16)),
        (8, Problem(1, 3, 1, 61, "lengths", "relu", 1, F16)),
        (16, Problem(4, 5, 1, 33, "packed", "relu", 0, BF16)),
        (8, Problem(3, 9, 3, 128, "packed", "tanh", 2, F16)),
        (16, Problem(2, 16, 1, 100, "lengths", "tanh", 0, BF16)),
        (8, Problem(4, 8, 1, 250, "packed", "tanh", 0, BF16)),
        exhaustive(8, Problem(7, 1, 1, 1, "dense", "tanh", 1, BF16)),
        exhaustive(8, Problem(3, 11, 2, 60, "dense", "relu", 0, BF16)),
        exhaustive(16, Problem(4, 18, 1, 127, "dense", "relu", 1, F16)),
        exhaustive(8, Problem(5, 7, 1, 65, "packed", "tanh", 0, F16)),
        exhaustive(16, Problem(6, 20, 2, 256, "dense", "tanh", 1, BF16)),
        exhaustive(16, Problem(3, 17, 1, 252, "lengths", "relu", 0, F16)),
        exhaustive(8, Problem(5, 9, 2, 255, "packed", "tanh", 1, F16)),
        exhaustive(8, Problem(4, 10, 1, 129, "lengths", "relu", 1, BF16)),
    ],
    ids=name,
)
def test_single_cta_gluon(check, tile: int, problem: Problem, configure) -> None:
    configure(tile)
    check(triton.BACKEND, problem, kernel="single_cta_gluon", mode="half")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        ("single_cta", Problem(4, 5, 2, 16, "lengths", "tanh", 1, BF16)),
        ("single_cta", Problem(3, 18, 1, 61, "packed", "relu", 0, BF16)),
        ("single_cta", Problem(3, 7, 1, 128, "dense", "tanh", 1, F16)),
        ("rows", Problem(3, 2, 2, 30, "packed", "tanh", 1, BF16)),
        ("rows", Problem(3, 2, 1, 100, "lengths", "relu", 0, BF16)),
        exhaustive("single_cta", Problem(3, 5, 1, 250, "lengths", "tanh", 1, BF16)),
        exhaustive("single_cta", Problem(6, 33, 2, 64, "dense", "relu", 1, BF16)),
        exhaustive("rows", Problem(9, 3, 1, 128, "dense", "tanh", 1, BF16)),
    ],
    ids=name,
)
def test_one_program_per_tile(check, kernel: str, problem: Problem) -> None:
    check(triton.BACKEND, problem, kernel=kernel, mode="half")


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("kernel", "mode"),
    [
        ("single_cta", "tf32"),
        ("grid", "float32"),
        ("rows", "float32"),
        exhaustive("single_cta", "float32"),
        exhaustive("grid", "tf32"),
    ],
)
def test_float32(check, kernel: str, mode: str) -> None:
    """A product in tf32, as tensor cores truncate it, or three of them for full float32."""
    problem = Problem(3, 5, 2, 61, "packed", "tanh", 1, F32)
    with torch.backends.cudnn.flags(allow_tf32=mode == "tf32"):
        check(triton.BACKEND, problem, kernel=kernel, mode=mode)


# A form is whether W_hh stays in shared memory, and the rows of a tile.
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ((True, 16), Problem(4, 5, 1, 70, "packed", "tanh", 0, BF16)),
        ((True, 32), Problem(3, 5, 2, 40, "lengths", "tanh", 1, BF16)),
        ((False, 16), Problem(4, 20, 1, 70, "packed", "tanh", 1, BF16)),
        ((False, 32), Problem(3, 5, 1, 65, "dense", "relu", 1, F16)),
        exhaustive((True, 16), Problem(3, 20, 1, 130, "dense", "relu", 1, F16)),
        exhaustive((False, 32), Problem(3, 70, 1, 130, "dense", "tanh", 0, BF16)),
        exhaustive((True, 16), Problem(8, 33, 2, 65, "lengths", "tanh", 1, BF16)),
        exhaustive((True, 16), Problem(5, 3, 1, 257, "packed", "tanh", 0, BF16)),
        exhaustive((True, 32), Problem(4, 40, 2, 100, "dense", "relu", 1, F16)),
        exhaustive((False, 16), Problem(4, 20, 2, 129, "dense", "tanh", 1, F16)),
        exhaustive((False, 16), Problem(3, 17, 1, 260, "packed", "tanh", 0, BF16)),
        exhaustive((False, 32), Problem(4, 70, 2, 72, "packed", "relu", 1, F16)),
        exhaustive((False, 32), Problem(3, 5, 1, 65, "lengths", "tanh", 1, BF16)),
    ],
    ids=name,
)
def test_grid(check, form: tuple[bool, int], problem: Problem, configure) -> None:
    """All programs run concurrently, as far ahead of each other as the kernel allows."""
    configure(*form)
    check(triton.BACKEND, problem, kernel="grid", mode="half")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("rows", Problem(6, 3, 2, 30, "packed", "tanh", 1, BF16, resets=True)),
        ("single_cta", Problem(6, 5, 2, 40, "lengths", "relu", 1, BF16, resets=True)),
        (8, Problem(6, 9, 2, 61, "packed", "tanh", 1, BF16, resets=True)),
        slow((True, 16), Problem(5, 18, 2, 40, "packed", "tanh", 1, BF16, resets=True)),
        exhaustive("rows", Problem(6, 3, 2, 100, "dense", "relu", 1, F16, resets=True)),
        exhaustive("single_cta", Problem(6, 18, 2, 128, "dense", "tanh", 1, F16, resets=True)),
        exhaustive("single_cta", Problem(5, 17, 2, 61, "packed", "tanh", 1, BF16, resets=True)),
        exhaustive(8, Problem(5, 9, 2, 256, "dense", "tanh", 1, F16, resets=True)),
        exhaustive(16, Problem(5, 17, 2, 250, "packed", "tanh", 1, BF16, resets=True)),
        exhaustive(16, Problem(4, 20, 2, 128, "lengths", "relu", 1, F16, resets=True)),
        exhaustive((True, 16), Problem(5, 20, 2, 130, "dense", "relu", 1, F16, resets=True)),
        exhaustive((True, 32), Problem(5, 40, 2, 40, "lengths", "tanh", 1, BF16, resets=True)),
        exhaustive((False, 16), Problem(4, 20, 2, 70, "packed", "tanh", 1, BF16, resets=True)),
        exhaustive((False, 32), Problem(4, 70, 2, 72, "dense", "tanh", 1, BF16, resets=True)),
    ],
    ids=name,
)
def test_resets(check, form: Any, problem: Problem, configure) -> None:
    """Resets in forward and reverse groups."""
    kernel = {int: "single_cta_gluon", tuple: "grid"}.get(type(form), form)
    if kernel != form:
        configure(*(form if kernel == "grid" else (form,)))
    check(triton.BACKEND, problem, kernel=kernel, mode="half")


SMALL = Problem(6, 18, 2, 40, "packed", "tanh", 1, BF16)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("form", [(True, 16), exhaustive((False, 16))], ids=name)
@pytest.mark.parametrize("resets", [False, exhaustive(True)])
def test_grid_in_waves(check, resets: bool, form: tuple[bool, int], configure, emulate) -> None:
    """With room for one team at a time, and with room for none: then one launch per step."""
    configure(*form)
    for room in (3, 0):
        emulate(room=room)
        check(triton.BACKEND, dataclasses.replace(SMALL, resets=resets), kernel="grid", mode="half")


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, exhaustive(6)])
@pytest.mark.parametrize(
    "form", [(True, 16), (False, 32), exhaustive((True, 32)), exhaustive((False, 16))], ids=name
)
def test_results_do_not_depend_on_the_interleaving(
    form: tuple[bool, int], seeds: int, configure, emulate
) -> None:
    configure(*form)
    tensors = SMALL.tensors()
    results = []
    for seed in range(seeds):
        emulate(seed)
        out, h_n = triton.BACKEND.forward(*tensors, *SMALL.options, kernel="grid")
        grads = torch.ones_like(out), torch.ones_like(h_n), out
        back = triton.BACKEND.backward(*grads, *tensors[1:], *SMALL.options, kernel="grid")
        results.append((out, h_n, *back))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("kernel", ["single_cta", "single_cta_gluon", "rows", "grid"])
def test_in_place(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "choose", lambda _: kernel)
    problem = Problem(5, 3, 2, 40, "lengths", "tanh", 1, BF16, resets=True)
    pre, *rest = *problem.tensors(), *problem.options
    out, h_n = triton.BACKEND.forward(pre, *rest)
    assert torch.equal(triton.BACKEND.forward_out(pre, pre, *rest), h_n)
    assert torch.equal(pre, out)


@pytest.mark.parametrize("kernel", ["single_cta", "single_cta_gluon", "rows", "grid"])
def test_special_relu_gradients(kernel: str) -> None:
    check_special_gradients(triton.BACKEND, BF16, kernel=kernel)


# Kernel, pattern of the PTX to remove except for its groups, and the error that results.
NO_BARRIER = r"(?:(?!bar\.sync).)*?"
REMOVED = {
    "fence": ("single_cta_gluon", r"fence\.proxy\.async[^;]*;", Race),
    "barrier after the fence": ("single_cta_gluon", r"(shared::cta;[^;]*?)bar\.sync[^;]*;", Race),
    "fence of registers": ("single_cta_gluon", r"wgmma\.fence[^;]*;", Invalid),
    "wait for the wgmma": ("single_cta_gluon", r"wgmma\.wait_group[^;]*;", Invalid),
    "barrier after the wgmma": (
        "single_cta_gluon",
        rf"(wgmma\.wait{NO_BARRIER})bar\.sync[^;]*;",
        Race,
    ),
    "masks": ("single_cta_gluon", r"@%p\d+ (ld\.global)", Invalid),
    "wait for a copy": ("grid", r"cp\.async\.wait_group\s+[1-9];", Race),
    "wait for the team": ("grid", r"(\.acquire(?:(?! bra ).)*?)@%p\d+ bra [^;]*;", Race),
    "acquire": ("grid", r"\.gpu\.acquire", Race),
    "barrier before the release": ("grid", rf"bar\.sync[^;]*;({NO_BARRIER}(?:atom|red)\.)", Race),
    "release": ("grid", r"\.release", Race),
    "gpu scope of the release": ("grid", r"\.gpu(\.release)", Race),
    "atomic addition": ("grid", r"@%p\d+ (?:atom|red)\.[^;]*;", Deadlock),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("removed", REMOVED)
def test_missing_instructions_are_reported(check, removed: str, configure, emulate) -> None:
    kernel, pattern, error = REMOVED[removed]

    def remove(ptx: str) -> str:
        broken = re.sub(pattern, lambda match: "".join(match.groups()), ptx, flags=re.S)
        assert broken != ptx
        return broken

    def run() -> None:
        for seed in range(5):  # at least one of these interleavings shows the error
            emulate(seed, edit=remove)
            check(triton.BACKEND, problem, kernel=kernel, mode="half")

    if kernel == "grid":
        configure(False, 16)
    problem = Problem(5, 5, 1, 70 if kernel == "grid" else 61, "lengths", "tanh", 1, BF16)
    with pytest.raises(error):
        run()
