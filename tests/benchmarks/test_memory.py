"""Peak memory on a CPU, in a process that counts allocations."""

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks import memory, runner
from benchmarks.memory import MIB, Process, peak_mib
from benchmarks.shapes import Case, Shape


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    process = Process(threads=2)
    yield process
    process.close()


def twice(mib: int) -> float:
    """The peak of a call that allocates `mib` twice in succession, and returns half as much."""

    def call() -> bytes:
        for _ in range(2):
            held = b"x" * (mib * MIB)
            del held
        return b"x" * (mib // 2 * MIB)

    return peak_mib(call, "cpu")


def freed(mib: int) -> float:
    """The peak of a call that frees `mib` in small blocks, then allocates as much in large ones."""

    def call() -> list[bytes]:
        held = [b"x" * 1000 for _ in range(mib * MIB // 1000)]
        del held
        return [b"x" * (MIB // 2) for _ in range(2 * mib)]

    return peak_mib(call, "cpu")


def every_function(mib: int) -> float:
    """The peak of a call that allocates a fifth of `mib` with each function of the C library."""
    libc = ctypes.CDLL(None)
    for name in ("malloc", "calloc", "realloc", "aligned_alloc", "memalign"):
        getattr(libc, name).restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    part = ctypes.c_size_t(mib * MIB // 5)

    def call() -> None:
        small = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(10)))
        blocks = [
            libc.malloc(part),
            libc.calloc(part, ctypes.c_size_t(1)),
            libc.realloc(small, part),
            libc.aligned_alloc(ctypes.c_size_t(64), part),
        ]
        block = ctypes.c_void_p()
        assert libc.posix_memalign(ctypes.byref(block), ctypes.c_size_t(64), part) == 0
        for each in (*blocks, block):
            libc.free(each)

    call()
    assert peak_mib(lambda: None, "cpu") == 0
    return peak_mib(call, "cpu")


@pytest.mark.parametrize("call", [twice, freed, every_function])
@pytest.mark.parametrize("mib", [2, 40])
def test_the_peak_is_the_most_allocated_at_once(mib: int, call: Any, process: Process) -> None:
    assert process.call(call, mib) == pytest.approx(mib, rel=0.1)


def test_the_process_has_the_requested_threads(process: Process) -> None:
    assert process.call(torch.get_num_threads) == 2


def test_a_layer_allocates_its_results_and_the_tensors_of_its_backward(process: Process) -> None:
    """Inference: the output. Training: out, dz and the gradient of x. Little is for some steps."""
    for step, tensors in (("inference", 1), ("training", 3)):
        case = Case("some", "layer", Shape(256, 8, 64, 64), "float32", step)
        found = process.call(runner.measure_memory, case, ["fastrnn", "nn.RNN"], "cpu")
        assert isinstance(found, runner.CaseResult)
        assert found.wrong == {}
        assert found.mib["fastrnn"] == pytest.approx(tensors / 2 + 0.1, abs=0.1)
        assert found.mib["nn.RNN"] > found.mib["fastrnn"]


@pytest.mark.slow
def test_the_reason_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.unavailable_reason("cpu") is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert memory.unavailable_reason("cpu") == "needs a compiler, and c++ is not installed"
    assert memory.unavailable_reason("cuda") is None
