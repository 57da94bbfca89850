"""Threads that divide the columns of every step: csrc/cpu/thread_team.h."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastrnn.ops.backends import cpu
from fastrnn.testing import Problem
from tests.cpp.build import build_program
from tests.utils.marks import requires_extension

pytestmark = requires_extension


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program(tmp_path_factory, "thread_team.cpp", "-O2", "-pthread")


@pytest.mark.parametrize(("threads", "steps"), [(1, 10), (2, 20000), (3, 2000), (16, 200)])
def test_barrier(program: Path, threads: int, steps: int) -> None:
    """Includes more threads than CPUs, and fewer threads than tasks."""
    run = subprocess.run(
        [program, str(threads), str(steps)], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (0, "")


@pytest.fixture
def restore() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("restore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(12, 1, 1, 301),
        Problem(9, 1, 1, 256, "lengths"),
        Problem(7, 3, 1, 203, "lengths", resets=True, reverse_from=0),
        Problem(8, 3, 2, 199, "packed", reverse_from=1),
        Problem(9, 2, 1, 300, activation="relu"),
    ],
    ids=str,
)
def test_teams_match_one_thread(problem: Problem, dtype: torch.dtype) -> None:
    """Bitwise, for any number of threads."""
    pre, weight_hh, h0, *ragged = replace(problem, dtype=dtype).tensors()
    arguments = (pre, weight_hh, h0, *ragged, *problem.options)
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        out, h_n = cpu.BACKEND.forward(*arguments)
        grads = torch.full_like(out, 0.5), torch.full_like(h_n, -0.5)
        results.append((out, h_n, *cpu.BACKEND.backward(*grads, out, *arguments[1:])))
    for result in results[1:]:
        assert all(map(torch.equal, results[0], result))
