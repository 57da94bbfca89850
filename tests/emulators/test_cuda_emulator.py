"""Tests of the emulator: it runs correct kernels correctly and reports broken ones.

The kernels are in tests/cpp/emulator_kernels.cpp.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from .cuda.build import MACHINE, build
from .cuda.server import SANITIZERS

KERNELS = Path(__file__).parents[1] / "cpp" / "emulator_kernels.cpp"
SEEDS = 60  # schedules of each


def run(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    executable = build("emulator_kernels", [*MACHINE, KERNELS])
    return subprocess.run(
        [executable, *arguments], input=given, capture_output=True, env=os.environ | SANITIZERS
    )


def schedules(kernel: str) -> tuple[int, int, int, str]:
    """The number of correct results, wrong results and errors, and the last error."""
    result = run(kernel, str(SEEDS))
    assert result.returncode == 0, result.stderr.decode()
    counts, error = result.stdout.decode().split("\n", 1)
    correct, wrong, errors = map(int, counts.split())
    return correct, wrong, errors, error


@pytest.mark.parametrize(
    "kernel",
    [
        "exchange none",
        "sums",
        "grid barrier",
        "message at the end",
        "copies",
        "bfloat16 product",
        "float16 product",
        "tf32 product",
        "transposition",
        "shuffles",
    ],
)
def test_correct_kernels(kernel: str) -> None:
    assert schedules(kernel) == (SEEDS, 0, 0, "")


@pytest.mark.parametrize(
    "kernel",
    [
        "exchange one_buffer",
        "exchange no_wait",
        "exchange wrong_phase",
        "sums without first barrier",
        "sums without second barrier",
        "message",
        "copies not waited",
    ],
)
def test_wrong_under_some_schedule(kernel: str) -> None:
    correct, _, _, _ = schedules(kernel)
    assert correct < SEEDS


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("exchange not_rearmed", "deadlock: "),
        ("exchange not_synchronised", "not initialised"),
        ("exchange no_fence", "before fence_mbarrier_init"),
        ("exchange exited_early", "has exited"),
        ("exchange too_many_arrivals", "one arrival too many"),
        ("exchange uninitialised", "not initialised"),
        ("grid barrier not cooperative", "blocks wait to be scheduled"),
    ],
)
def test_detected_under_some_schedule(kernel: str, words: str) -> None:
    _, _, errors, error = schedules(kernel)
    assert errors > 0
    assert words in error


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("lanes_diverge", "have diverged"),
        ("lanes_exit", "exited"),
        ("warps_exit", "__syncthreads"),
        ("counts_differ", "have diverged|the first to arrive|deadlock"),
        ("one_warp_short", "deadlock: 32 threads wait at a named barrier"),
        ("beyond_by_address", "which ends at byte 256"),
        ("overwritten", "was overwritten"),
        ("grid barrier too large", "more blocks than can run at once"),
        ("too much shared memory", "too much shared memory"),
    ],
)
def test_detected_under_every_schedule(kernel: str, words: str) -> None:
    _, _, errors, error = schedules(kernel)
    assert errors == SEEDS
    assert any(part in error for part in words.split("|")), error


@pytest.mark.parametrize(
    ("kernel", "report"),
    [
        ("beyond_by_pointer", "heap-buffer-overflow"),
        ("misaligned", "misaligned address"),
    ],
)
def test_sanitizers_check_the_kernels(kernel: str, report: str) -> None:
    result = run(kernel, "1")
    assert result.returncode != 0
    assert report in result.stderr.decode()


def test_conversions() -> None:
    words = torch.randint(-(2**31), 2**31, (1 << 16,), dtype=torch.int32)
    words = torch.cat([words, torch.arange(1 << 16, dtype=torch.int32)])
    values = words.view(torch.float32)
    values = torch.cat([values, torch.randn(1 << 14), torch.randn(1 << 14) * 2.0**-16])
    result = run("convert", given=values.numpy().tobytes())
    made = torch.frombuffer(bytearray(result.stdout), dtype=torch.int32).reshape(-1, 5).unbind(1)

    def high_half(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return (words >> 16).to(torch.int16).view(dtype)

    def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)

    same(high_half(made[0], torch.bfloat16), values.bfloat16())
    same(high_half(made[1], torch.float16), values.half())
    halves = values.view(torch.int32).to(torch.int16).view(torch.float16)
    same(made[2].contiguous().view(torch.float32), halves.float())

    rounded = made[3].contiguous().view(torch.float32)
    finite = values.isfinite() & (values.abs() > 2.0**-126) & (values.abs() < 2.0**127)
    assert ((rounded.view(torch.int32) & 0x1FFF) == 0)[finite].all()
    relative = (rounded.double() / values.double() - 1).abs()[finite]
    assert relative.max() <= 2.0**-11

    tanh = made[4].contiguous().view(torch.float32)
    exact = torch.tanh(values.double())
    assert torch.equal(tanh.isnan(), values.isnan())
    error = ((tanh.double() - exact) / exact).abs()[finite]
    assert 2.0**-13 < error.max() <= 2.0**-11
