"""The floors, by hand."""

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest

from benchmarks import cpu_floor, floor, gpu_floor
from benchmarks.cpu_floor import Cpu
from benchmarks.shapes import Case, Work, select

#: Round numbers: a GFLOP/s a thread, a GB/s out of 32 KiB, half of it beyond.
CPU = Cpu(
    threads=2,
    register_bytes=512,
    rate=1e9,
    rate_all=2e9,
    gemm={"float32": 1.5e9, "bfloat16": 8e9},
    latency=1e-9,
    store_load=3e-9,
    bandwidths={1024: 1e9, 32768: 0.5e9},
    bandwidths_all={1024: 2e9, 32768: 1e9},
    hand_off=1e-6,
    calls={"inference": 2e-6, "forward": 3e-6, "training": 1e-5},
)

Make = Callable[..., Case]


@pytest.fixture
def layer() -> Make:
    def make(*sizes: int, step: str = "inference", mode: str = "float32", **traits: int) -> Case:
        return Case("some", "layer", Work(*sizes, **traits), mode, step)

    return make


def test_arithmetic_is_every_product_at_the_best_rate(layer: Make) -> None:
    once = 2 * 10 * 8 * (5 * 6 + 6 * 6)  # T B (I H + H H), additions too
    assert floor.operations(layer(10, 8, 5, 6)) == once
    assert floor.operations(layer(10, 8, 5, 6, step="training")) == 3 * once
    assert floor.operations(layer(10, 8, 5, 6, bidirectional=True)) == 2 * once
    second = 2 * 10 * 8 * (12 * 12 + 12 * 6)  # it has both directions' outputs for its input
    both = layer(10, 8, 5, 6, layers=2, bidirectional=True)
    assert floor.operations(both) == 2 * once + second
    alone = Case("some", "recurrence", Work(10, 8, 6, 6, groups=3), "float32", "inference")
    assert floor.operations(alone) == 3 * 2 * 10 * 8 * 36
    assert floor.floor(layer(10, 8, 5, 6), CPU).arithmetic == pytest.approx(1e3 * once / 2e9)
    # Units of half precision, if torch's products show that there are any.
    assert floor.floor(layer(10, 8, 5, 6, mode="bfloat16"), CPU).arithmetic == pytest.approx(
        1e3 * once / 8e9
    )


def test_packed_rows_count_as_long_as_they_last(layer: Make) -> None:
    assert floor.rows(Work(9, 3, 1, 1)) == 27
    assert floor.rows(Work(9, 3, 1, 1, packed=True)) == 9 + 5 + 1


def test_bytes_are_what_must_be_moved(layer: Make) -> None:
    assert floor.bytes_moved(layer(10, 8, 5, 6)) == 4 * 80 * (5 + 6)
    # x is read twice, grad_x written; out written and read, its gradient read.
    assert floor.bytes_moved(layer(10, 8, 5, 6, step="training")) == 4 * 80 * (3 * 5 + 3 * 6)
    kernel = Case("some", "kernel", Work(10, 8, 6, 6), "bfloat16", "backward")
    assert floor.bytes_moved(kernel) == 2 * 80 * 3 * 6
    moved = 4 * 80 * 11  # 3520: out of 32 KiB for two threads, as fast as out of 1 KiB
    assert floor.floor(layer(10, 8, 5, 6), CPU).bytes == pytest.approx(1e3 * moved / 2e9)


def test_a_step_waits_for_the_weights_the_products_and_the_activation() -> None:
    # 64 units: 16 KiB of W_hh out of a cache, or half of it each and a hand-off.
    alone = CPU.step(1, 1, 64, "float32", "tanh", "forward")
    assert alone == pytest.approx(16384 / 2 / 1e9 + 1e-6)
    # Eight rows: their products take longer than the weights, whoever has them.
    assert CPU.step(8, 1, 64, "float32", "tanh", "forward") == pytest.approx(2 * 4 * 64**2 / 1e9)
    # Two groups, one for each thread: nobody waits for a hand-off.
    assert CPU.step(1, 2, 64, "float32", "tanh", "forward") == pytest.approx(16384 / 1e9)
    # Weights that fit in registers need no loading: what is left is the chain of a step.
    quick = replace(CPU, rate_all=inf)
    assert quick.step(1, 1, 8, "float32", "tanh", "forward") == pytest.approx(3e-9 + 11e-9)
    assert quick.step(1, 1, 8, "float32", "relu", "forward") == pytest.approx(3e-9 + 2e-9)
    assert quick.step(1, 1, 8, "float32", "tanh", "backward") == pytest.approx(3e-9 + 3e-9)


def test_steps_follow_one_another(layer: Make) -> None:
    one = CPU.step(8, 1, 6, "float32", "tanh", "forward")
    back = CPU.step(8, 1, 6, "float32", "tanh", "backward")
    assert floor.floor(layer(10, 8, 5, 6), CPU).steps == pytest.approx(1e3 * 10 * one)
    training = floor.floor(layer(10, 8, 5, 6, step="training"), CPU)
    assert training.steps == pytest.approx(1e3 * 10 * (one + back))
    assert training.least == max(training)
    deep = floor.floor(layer(10, 8, 5, 6, layers=3), CPU)
    assert deep.steps == pytest.approx(3e3 * 10 * one)


def test_even_nothing_has_to_be_called(layer: Make) -> None:
    assert floor.floor(layer(1, 1, 1, 1), CPU).least == pytest.approx(2e-3)
    assert floor.floor(layer(1, 1, 1, 1, step="training"), CPU).least == pytest.approx(1e-2)


def test_of_two_calibrations_the_better_counts() -> None:
    first = {"clock": 1.0, "hand_off": 3.0, "bandwidth": {"1": 5.0, "2": 6.0}}
    second = {"clock": 2.0, "hand_off": 4.0, "bandwidth": {"1": 7.0, "2": 1.0}, "call": 1.0}
    both = cpu_floor.better(
        {"measured": first, "errors": ["of the first"]}, {"measured": second, "errors": []}
    )
    assert both["measured"] == {
        "clock": 2.0,
        "hand_off": 3.0,
        "bandwidth": {"1": 7.0, "2": 6.0},
        "call": 1.0,
    }
    assert both["errors"] == ["of the first"]


def test_a_rate_is_never_below_that_of_more_data() -> None:
    """Measured too low at one size, by a busy moment, it would raise a floor."""
    rates = {1024: 1e9, 2048: 3e9, 4096: 2e9}
    assert [cpu_floor._rate(rates, size) for size in (1, 1024, 2048, 4000, 4096, 9999)] == [
        *[3e9] * 4,
        *[2e9] * 2,
    ]


def test_least_memory_is_the_results(layer: Make) -> None:
    assert floor.least_mib(layer(1024, 8, 32, 64)) == 1024 * 8 * 64 * 4 / 2**20
    assert floor.least_mib(layer(1024, 8, 32, 64, step="training")) == 1024 * 8 * 96 * 4 / 2**20


@pytest.mark.parametrize("case", select("full", "cpu")[::9], ids=str)
def test_every_case_has_a_floor(case: Case) -> None:
    for machine in (CPU, *gpu_floor.GPUS.values()):
        counts = floor.floor(case, machine)
        assert all(0 < count < inf for count in counts)
        # Twice the work takes no less.
        for twice in (replace(case.work, B=2 * case.work.B), replace(case.work, T=2 * case.work.T)):
            assert floor.floor(replace(case, work=twice), machine).least >= counts.least


@pytest.mark.slow
def test_the_calibration_of_this_machine() -> None:
    """What is measured here makes a machine, and is not absurd."""
    found = cpu_floor.calibrate(threads=2)
    assert found["errors"] == []
    cpu = cpu_floor.machine(found)
    assert cpu is not None
    assert 1e9 < cpu.rate < 1e12
    assert cpu.rate < 1.1 * cpu.rate_all
    assert 1e-10 < cpu.latency < 1e-8
    assert 0 < cpu.store_load < 1e-7
    assert cpu.bandwidths[2**14] > cpu.bandwidths[2**28] > 1e8
    assert set(cpu.gemm) == set(cpu_floor.CPU_MODES)
    assert 1e-7 < cpu.call("inference") < cpu.call("training") < 1e-3


def test_without_a_compiler_there_is_no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = cpu_floor.calibrate(threads=2)
    assert found["errors"] == ["c++ is not installed"]
    assert cpu_floor.machine(found) is None


def test_a_step_on_a_gpu() -> None:
    """bfloat16, B = 16, H = 64 on an H200."""
    gpu = gpu_floor.gpu("NVIDIA H200")
    assert gpu is not None
    # One program, a row for each: 100 cycles, 8192 bytes of W_hh at 310 a cycle, 110 cycles.
    step = gpu.step(16, 1, 64, "bfloat16", "tanh", "forward")
    assert step == pytest.approx((100 + 8192 / 512 * 1.65 + 110) / 1.755e9)
    kernel = Case("some", "kernel", Work(100, 16, 64, 64), "bfloat16", "forward")
    forward = floor.floor(kernel, gpu)
    assert forward.arithmetic == pytest.approx(1e3 * 100 * 131072 / 989e12)  # 2 · 16 · 64²
    assert forward.bytes == pytest.approx(1e3 * 100 * 4096 / 4.8e12)  # 2 · 16 · 64 · 2
    assert forward.steps == pytest.approx(1e3 * 100 * step)
    assert gpu_floor.gpu("NVIDIA GeForce RTX 4090") is None


def test_a_gpu_is_as_fast_as_it_was_measured() -> None:
    gpu = gpu_floor.GPUS["H200"].calibrated(
        {
            "block_exchange": 80.0,
            "product_cycles": {"half": 1.7, "tf32": 1.6},
            "cluster_bandwidth": {"8": 12.0, "16": 13.0},
            "grid_exchange": {"median": 600.0, "to 16": 500.0},
            "rates": {"half": 800e12},
            "memory_bandwidth": 4.2e12,
            "clock": 1.9e9,
            "product_latency": {"half": 33.0},  # of the plan alone
        }
    )
    assert (gpu.block_exchange, gpu.product_cycles, gpu.cluster_bandwidth) == (80, 1.6, 13)
    assert (gpu.grid_exchange, gpu.memory_bandwidth, gpu.clock) == (500, 4.2e12, 1.9e9)
    assert gpu.operations("bfloat16") == 800e12
    assert gpu.operations("tf32") == 495e12
    assert "clock" in gpu.measured
