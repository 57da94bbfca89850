"""The launchers of the Triton kernels, with a fake CUDA driver that records launches.

Kernels are compiled and arguments bound as usual, but nothing runs.
"""

import gc
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from fastrnn.ops.backends import triton
from fastrnn.ops.backends.base import Call, precision_of
from fastrnn.ops.backends.triton.table import Sizes
from fastrnn.testing import Problem

pytest.importorskip("triton")
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("the interpreter launches nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget
from triton.compiler import compiler
from triton.runtime.driver import driver as active_driver

from fastrnn.ops.backends.triton import grid, occupancy, rows, single_cta, single_cta_gluon

PROCESSORS, SHARED = 132, 232448


class Driver:
    """The part of an H100's driver that Triton uses."""

    def __init__(self) -> None:
        self.launches: list[dict[str, Any]] = []
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": SHARED},
            # module, function, registers, spills, threads
            load_binary=lambda name, binary, shared, device: (1, 2, 32, 0, 1024),
            unload_module=lambda module: None,
        )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        names = source.fn.arg_names

        def launch(x: int, y: int, z: int, *arguments: Any) -> None:
            assert (y, z) == (1, 1)
            # The kernel's arguments follow the stream, function, metadata and hooks.
            own = dict(zip(names, arguments[-len(names) :], strict=True))
            self.launches.append(
                {"programs": x, "cooperative": metadata.launch_cooperative_grid, **own}
            )

        return launch


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """Treat CPU tensors as CUDA tensors, and start with no compiled kernels."""
    driver = Driver()
    monkeypatch.setattr(triton, "sizes_of", _sizes)
    monkeypatch.setattr(occupancy, "_known", {})
    _forget()
    with mock.patch.object(active_driver, "_active", driver):
        yield driver
        _forget()
        gc.collect()  # Triton 3.9 asks the driver to unload each kernel that is freed


def _forget() -> None:
    """Drop all compiled kernels."""
    for module in (grid, rows, single_cta, single_cta_gluon):
        module.forward.device_caches.clear()
        module.backward.device_caches.clear()


def _sizes(call: Call) -> Sizes:
    mode = precision_of(call.dtype)
    sizes = call.batch, call.groups, call.hidden
    return Sizes(*sizes, mode, (9, 0), SHARED, PROCESSORS, wgmma=True)


def run(problem: Problem, kernel: str) -> None:
    """Launch forward and backward; the outputs stay uninitialized."""
    arguments = (*problem.tensors(), *problem.options)
    out, h_n = triton.BACKEND.forward(*arguments, kernel=kernel)
    triton.BACKEND.backward(out, h_n, out, *arguments[1:], kernel=kernel)


def compilations(kernel: Any) -> int:
    """Return how many times a kernel has been compiled."""
    return len(kernel.device_caches[0][0])


@pytest.mark.parametrize(
    "name",
    [
        "rows",
        "grid",
        pytest.param("single_cta", marks=pytest.mark.slow),
        pytest.param("single_cta_gluon", marks=pytest.mark.slow),
    ],
)
def test_other_batch_sizes_and_lengths_do_not_recompile(name: str, driver: Driver) -> None:
    module = {
        "rows": rows,
        "single_cta": single_cta,
        "single_cta_gluon": single_cta_gluon,
        "grid": grid,
    }[name]
    for steps, batch, groups in [(3, 2, 1), (1, 1, 1), (16, 16, 2), (2, 17, 3), (32, 1, 16)]:
        run(Problem(steps, batch, groups, 20, "packed", dtype=torch.float16), name)
    assert compilations(module.forward) == compilations(module.backward) == 1
    run(Problem(3, 2, 1, 21, "packed", dtype=torch.float16), name)
    assert compilations(module.forward) == compilations(module.backward) == 2
    driver.launches.clear()
    for steps, batch, groups in [(3, 2, 1), (16, 32, 2)]:
        run(Problem(steps, batch, groups, 20, "packed", dtype=torch.float16, resets=True), name)
    assert compilations(module.forward) == compilations(module.backward) == 3
    assert {launch["resets"].dtype for launch in driver.launches} == {torch.uint8}


def test_one_program_per_tile_and_group(driver: Driver) -> None:
    for kernel, expected in (("rows", 35 * 3), ("single_cta", 3 * 3), ("single_cta_gluon", 5 * 3)):
        driver.launches.clear()
        run(Problem(2, 35, 3, 20, dtype=torch.float16), kernel)
        assert [launch["programs"] for launch in driver.launches] == [expected] * 2


def test_an_empty_batch_launches_nothing(driver: Driver) -> None:
    for kernel in ("rows", "single_cta", "single_cta_gluon", "grid"):
        run(Problem(2, 0, 3, 20, dtype=torch.float16), kernel)
    assert not driver.launches


def test_grid_launches_once_per_step_if_no_team_fits(driver: Driver) -> None:
    """The tensors are on the CPU, for which no programs run concurrently."""
    run(Problem(5, 20, 2, 100, dtype=torch.float16), "grid")
    forward, backward = driver.launches[:5], driver.launches[5:]
    assert [(launch["begin"], launch["end"]) for launch in forward] == [
        (i, i + 1) for i in range(5)
    ]
    assert [launch["begin"] for launch in backward] == list(range(6))  # one more iteration
    for launch in driver.launches:
        assert launch["arrived"] is None
        assert not launch["cooperative"]
        assert launch["programs"] == 2 * -(-100 // launch["COLS"])  # one tile of 32 rows


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many blocks fit on a multiprocessor of the fake device; a test may change it."""
    held = {"blocks": 1}
    device = torch.device("cuda", 0)
    properties = SimpleNamespace(multi_processor_count=PROCESSORS)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(occupancy, "_blocks", lambda *_: held["blocks"])
    monkeypatch.setattr(grid, "room", lambda *arguments: occupancy.room(*arguments[:3], device))
    return held


def test_grid_is_one_cooperative_launch_if_all_teams_fit(
    driver: Driver, blocks: dict[str, int]
) -> None:
    run(Problem(5, 20, 2, 500, dtype=torch.float16), "grid")
    # The occupancy query and the launch use the same compiled kernel.
    assert compilations(grid.forward) == compilations(grid.backward) == 1
    forward, backward = driver.launches
    assert (forward["begin"], forward["end"]) == (0, 5)
    assert (backward["begin"], backward["end"]) == (0, 6)
    for launch in (forward, backward):
        assert launch["cooperative"]
        assert launch["RESIDENT"]
        # Four teams of 32 programs with 16 rows and 16 units each use 128 of 132 multiprocessors.
        assert (launch["ROWS"], launch["COLS"], launch["programs"]) == (16, 16, 128)
        assert launch["arrived"].shape == (4,)
        assert not launch["arrived"].any()


@pytest.mark.slow
def test_grid_takes_larger_tiles_if_small_ones_do_not_fit(
    driver: Driver, blocks: dict[str, int]
) -> None:
    run(Problem(2, 60, 1, 1000, dtype=torch.float16), "grid")
    for launch in driver.launches:
        assert (launch["ROWS"], launch["COLS"], launch["RESIDENT"]) == (32, 16, True)
        assert launch["programs"] == 2 * 63
    driver.launches.clear()
    run(Problem(2, 65, 1, 1000, dtype=torch.float16), "grid")
    for launch in driver.launches:
        assert (launch["ROWS"], launch["COLS"], launch["RESIDENT"]) == (32, 32, False)
        assert launch["programs"] == 3 * 32


def test_grid_launches_no_more_teams_than_fit(driver: Driver, blocks: dict[str, int]) -> None:
    """Five tiles of 32 rows and 63 programs each; two teams fit at once."""
    run(Problem(2, 150, 1, 2000, dtype=torch.float16), "grid")
    for launches in (driver.launches[:3], driver.launches[3:]):
        assert [launch["first_team"] for launch in launches] == [0, 2, 4]
        assert [launch["programs"] for launch in launches] == [126, 126, 63]
        assert all(launch["cooperative"] for launch in launches)


@pytest.mark.slow
def test_grid_launches_once_per_step_if_the_driver_reports_no_occupancy(
    driver: Driver, blocks: dict[str, int]
) -> None:
    blocks["blocks"] = 0
    run(Problem(3, 4, 1, 300, dtype=torch.float16), "grid")
    assert len(driver.launches) == 3 + 4
    assert not any(launch["cooperative"] for launch in driver.launches)


def test_configurations_beyond_free_shared_memory_are_skipped(
    driver: Driver, blocks: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less is free than the device reports, so that resident columns do not fit."""
    monkeypatch.setattr(compiler, "max_shared_mem", lambda device: 60 * 1024)
    run(Problem(3, 4, 1, 1000, dtype=torch.float16), "grid")
    assert len(driver.launches) == 2
    assert not any(launch["RESIDENT"] for launch in driver.launches)
