"""The lower bounds of the roofline model, compared with values computed by hand."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from benchmarks.groups import select
from benchmarks.roofline import cpu as cpu_roofline
from benchmarks.roofline import gpu as gpu_roofline
from benchmarks.roofline import model
from benchmarks.roofline.cpu import Cpu
from benchmarks.shapes import Case, Shape

#: Round numbers: one GFLOP/s per thread, one GB/s up to 32 KiB, and half of that beyond.
CPU = Cpu(
    threads=2,
    register_bytes=512,
    flops_per_thread=1e9,
    flops_total=2e9,
    gemm={"float32": 1.5e9, "bfloat16": 8e9},
    fma_latency=1e-9,
    store_load_latency=3e-9,
    bandwidth_per_thread={1024: 1e9, 32768: 0.5e9},
    bandwidth_total={1024: 2e9, 32768: 1e9},
    hand_off=1e-6,
    call_overheads={"inference": 2e-6, "forward": 3e-6, "training": 1e-5},
)

Make = Callable[..., Case]


def step(batch: int, hidden: int, **traits: Any) -> Shape:
    """A layer of which one step counts."""
    return Shape(1, batch, hidden, hidden, **traits)


@pytest.fixture
def layer() -> Make:
    def make(*sizes: int, step: str = "inference", mode: str = "float32", **traits: Any) -> Case:
        return Case("some", "layer", Shape(*sizes, **traits), mode, step)

    return make


def test_arithmetic_bound(layer: Make) -> None:
    once = 2 * 10 * 8 * (5 * 6 + 6 * 6)  # T B (I H + H H), with the additions
    assert model.flops(layer(10, 8, 5, 6)) == once
    assert model.flops(layer(10, 8, 5, 6, step="training")) == 3 * once
    assert model.flops(layer(10, 8, 5, 6, bidirectional=True)) == 2 * once
    second = 2 * 10 * 8 * (12 * 12 + 12 * 6)  # its input is the output of both directions
    both = layer(10, 8, 5, 6, layers=2, bidirectional=True)
    assert model.flops(both) == 2 * once + second
    alone = Case("some", "recurrence", Shape(10, 8, 6, 6, groups=3), "float32", "inference")
    assert model.flops(alone) == 3 * 2 * 10 * 8 * 36
    assert model.bounds(layer(10, 8, 5, 6), CPU).arithmetic == pytest.approx(1e3 * once / 2e9)
    # torch's products show that half precision has its own units.
    assert model.bounds(layer(10, 8, 5, 6, mode="bfloat16"), CPU).arithmetic == pytest.approx(
        1e3 * once / 8e9
    )


def test_packed_rows_have_no_padding(layer: Make) -> None:
    assert model.num_rows(Shape(9, 3, 1, 1)) == 27
    assert model.num_rows(Shape(9, 3, 1, 1, packed=True)) == 9 + 5 + 1


def test_bytes_bound(layer: Make) -> None:
    assert model.bytes_moved(layer(10, 8, 5, 6)) == 4 * 80 * (5 + 6)
    # x is read twice, and grad_x is written. out is written and read, and its gradient is read.
    assert model.bytes_moved(layer(10, 8, 5, 6, step="training")) == 4 * 80 * (3 * 5 + 3 * 6)
    kernel = Case("some", "kernel", Shape(10, 8, 6, 6), "bfloat16", "backward")
    assert model.bytes_moved(kernel) == 2 * 80 * 3 * 6
    moved = 4 * 80 * 11  # 3520 bytes, at the rate of 1 KiB for each of two threads
    assert model.bounds(layer(10, 8, 5, 6), CPU).bytes == pytest.approx(1e3 * moved / 2e9)


def test_shortest_step_on_a_cpu() -> None:
    # 64 units: 16 KiB of W_hh from a cache, or half of it per thread and a hand-off.
    alone = CPU.step_time(step(1, 64), "float32", "forward")
    assert alone == pytest.approx(16384 / 2 / 1e9 + 1e-6)
    # Eight rows: their products take longer than loading the weights.
    assert CPU.step_time(step(8, 64), "float32", "forward") == pytest.approx(2 * 4 * 64**2 / 1e9)
    # Two groups, one for each thread: there is no hand-off.
    two = step(1, 64, groups=2)
    assert CPU.step_time(two, "float32", "forward") == pytest.approx(16384 / 1e9)
    # Weights that fit in registers need no loading, which leaves the dependency chain of a step.
    quick = replace(CPU, flops_total=inf)
    relu = step(1, 8, activation="relu")
    assert quick.step_time(step(1, 8), "float32", "forward") == pytest.approx(3e-9 + 11e-9)
    assert quick.step_time(relu, "float32", "forward") == pytest.approx(3e-9 + 2e-9)
    assert quick.step_time(step(1, 8), "float32", "backward") == pytest.approx(3e-9 + 3e-9)


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3)])
def test_shortest_step_of_a_cell_with_gates(cell: str, gates: int) -> None:
    # The gates of one unit share nothing but the state: W_hh has K times the rows.
    wide = step(8, 64, cell=cell)
    assert CPU.step_time(wide, "float32", "forward") == pytest.approx(
        gates * CPU.step_time(step(8, 64), "float32", "forward")
    )
    quick = replace(CPU, flops_total=inf, register_bytes=2048)
    # A sum, two activations in a row, and two more operations.
    narrow = step(1, 8, cell=cell)
    assert quick.step_time(narrow, "float32", "forward") == pytest.approx(3e-9 + 23e-9)
    assert quick.step_time(narrow, "float32", "backward") == pytest.approx(3e-9 + 3e-9)


@pytest.mark.parametrize(("cell", "gates", "saved"), [("lstm", 4, 5), ("gru", 3, 4)])
def test_bounds_of_a_cell_with_gates(cell: str, gates: int, saved: int, layer: Make) -> None:
    once = 2 * 10 * 8 * gates * (5 * 6 + 6 * 6)
    assert model.flops(layer(10, 8, 5, 6, cell=cell)) == once
    assert model.flops(layer(10, 8, 5, 6, cell=cell, step="training")) == 3 * once
    # Nothing is saved in an inference: its bytes are those of nn.RNN.
    assert model.bytes_moved(layer(10, 8, 5, 6, cell=cell)) == 4 * 80 * (5 + 6)
    # Gates and inner values are written and read once.
    training = layer(10, 8, 5, 6, cell=cell, step="training")
    assert model.bytes_moved(training) == 4 * 80 * (3 * 5 + (3 + 2 * saved) * 6)
    deep = layer(10, 8, 5, 6, cell=cell, step="training", layers=2)
    assert model.bytes_moved(deep) == 4 * 80 * (3 * 5 + (5 + 4 * saved) * 6)
    kernel = Case("some", "kernel", Shape(10, 8, 6, 6, cell=cell), "float32", "backward")
    assert model.bytes_moved(kernel) == 4 * 80 * (1 + saved + gates) * 6
    # On a GPU its programs exchange the state of one gate's size, and multiply by K times W_hh.
    gpu = gpu_roofline.GPUS["H200"]
    cycles = gpu.step_time(step(16, 64, cell=cell), "bfloat16", "forward") * gpu.clock
    assert cycles == pytest.approx(100 + gates * 8192 / 512 * 1.65 + 110)


def test_steps_bound(layer: Make) -> None:
    one, back = (CPU.step_time(step(8, 6), "float32", which) for which in ("forward", "backward"))
    assert model.bounds(layer(10, 8, 5, 6), CPU).steps == pytest.approx(1e3 * 10 * one)
    training = model.bounds(layer(10, 8, 5, 6, step="training"), CPU)
    assert training.steps == pytest.approx(1e3 * 10 * (one + back))
    assert training.largest == max(training)
    deep = model.bounds(layer(10, 8, 5, 6, layers=3), CPU)
    assert deep.steps == pytest.approx(3e3 * 10 * one)


def test_call_bound(layer: Make) -> None:
    assert model.bounds(layer(1, 1, 1, 1), CPU).largest == pytest.approx(2e-3)
    assert model.bounds(layer(1, 1, 1, 1, step="training"), CPU).largest == pytest.approx(1e-2)


def test_best_of_two_calibrations() -> None:
    first = {"clock": 1.0, "hand_off": 3.0, "bandwidth": {"1": 5.0, "2": 6.0}}
    second = {"clock": 2.0, "hand_off": 4.0, "bandwidth": {"1": 7.0, "2": 1.0}, "call": 1.0}
    both = cpu_roofline.best_of(
        {"measured": first, "errors": ["of the first"]}, {"measured": second, "errors": []}
    )
    assert both["measured"] == {
        "clock": 2.0,
        "hand_off": 3.0,
        "bandwidth": {"1": 7.0, "2": 6.0},
        "call": 1.0,
    }
    assert both["errors"] == ["of the first"]


def test_bandwidth_is_never_below_that_of_more_data() -> None:
    """A rate that was measured too low, on a busy machine, would raise a lower bound."""
    rates = {1024: 1e9, 2048: 3e9, 4096: 2e9}
    assert [cpu_roofline._rate(rates, size) for size in (1, 1024, 2048, 4000, 4096, 9999)] == [
        *[3e9] * 4,
        *[2e9] * 2,
    ]


def test_size_of_the_results(layer: Make) -> None:
    assert model.results_mib(layer(1024, 8, 32, 64)) == 1024 * 8 * 64 * 4 / 2**20
    assert model.results_mib(layer(1024, 8, 32, 64, step="training")) == 1024 * 8 * 96 * 4 / 2**20


@pytest.mark.parametrize("case", select("full", "cpu")[::9], ids=str)
def test_every_case_has_bounds(case: Case) -> None:
    for machine in (CPU, *gpu_roofline.GPUS.values()):
        counts = model.bounds(case, machine)
        assert all(0 < count < inf for count in counts)
        # Twice the batch or the steps do not lower the bound.
        for twice in (
            replace(case.shape, B=2 * case.shape.B),
            replace(case.shape, T=2 * case.shape.T),
        ):
            assert model.bounds(replace(case, shape=twice), machine).largest >= counts.largest


@pytest.mark.exhaustive
def test_calibration_of_this_machine() -> None:
    """The measured constants are complete and plausible."""
    found = cpu_roofline.calibrate(threads=2)
    assert found["errors"] == []
    cpu = cpu_roofline.machine(found)
    assert cpu is not None
    assert 1e9 < cpu.flops_per_thread < 1e12
    assert cpu.flops_per_thread < 1.1 * cpu.flops_total
    assert 1e-10 < cpu.fma_latency < 1e-8
    assert 0 < cpu.store_load_latency < 1e-7
    assert cpu.bandwidth_per_thread[2**14] > cpu.bandwidth_per_thread[2**28] > 1e8
    assert set(cpu.gemm) == set(cpu_roofline.CPU_MODES)
    assert 1e-7 < cpu.call_overhead("inference") < cpu.call_overhead("training") < 1e-3


def test_no_bounds_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = cpu_roofline.calibrate(threads=2)
    assert found["errors"] == ["c++ is not installed"]
    assert cpu_roofline.machine(found) is None


def test_shortest_step_on_a_gpu() -> None:
    """bfloat16, B = 16, H = 64 on an H200."""
    gpu = gpu_roofline.machine("NVIDIA H200")
    assert gpu is not None
    # One program for each row: 100 cycles, 8192 bytes of W_hh at 310 per cycle, and 110 cycles.
    seconds = gpu.step_time(step(16, 64), "bfloat16", "forward")
    assert seconds == pytest.approx((100 + 8192 / 512 * 1.65 + 110) / 1.755e9)
    kernel = Case("some", "kernel", Shape(100, 16, 64, 64), "bfloat16", "forward")
    forward = model.bounds(kernel, gpu)
    assert forward.arithmetic == pytest.approx(1e3 * 100 * 131072 / 989e12)  # 2 · 16 · 64²
    assert forward.bytes == pytest.approx(1e3 * 100 * 4096 / 4.8e12)  # 2 · 16 · 64 · 2
    assert forward.steps == pytest.approx(1e3 * 100 * seconds)
    assert gpu_roofline.machine("NVIDIA GeForce RTX 4090") is None


def test_measured_rates_replace_the_assumed_ones() -> None:
    gpu = gpu_roofline.GPUS["H200"].calibrated(
        {
            "block_exchange": 80.0,
            "product_cycles": {"half": 1.7, "tf32": 1.6},
            "cluster_bandwidth": {"8": 12.0, "16": 13.0},
            "grid_exchange": {"median": 600.0, "to 16": 500.0},
            "rates": {"half": 800e12},
            "memory_bandwidth": 4.2e12,
            "clock": 1.9e9,
            "product_latency": {"half": 33.0},  # only the plan uses it
        }
    )
    assert (gpu.block_exchange, gpu.product_cycles, gpu.cluster_bandwidth) == (80, 1.6, 13)
    assert (gpu.grid_exchange, gpu.memory_bandwidth, gpu.clock) == (500, 4.2e12, 1.9e9)
    assert gpu.peak_flops("bfloat16") == 800e12
    assert gpu.peak_flops("tf32") == 495e12
    assert "clock" in gpu.measured
