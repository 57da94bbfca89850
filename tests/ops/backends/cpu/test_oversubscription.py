"""More threads than CPUs: equal results, and no more threads get work than there are CPUs."""

import os
import subprocess
import sys

import pytest

from tests.utils.marks import requires_extension

pytestmark = [
    requires_extension,
    pytest.mark.skipif(sys.platform != "linux", reason="uses Linux interfaces"),
]

#: In a process of its own: OpenMP reads the affinity when it starts. The arguments are the number
#: of CPUs and of threads.
SCRIPT = """
import faulthandler, os, sys

cpus, threads = map(int, sys.argv[1:])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])

import torch
from fastrnn.ops.arguments import Outputs, State
from fastrnn.ops.backends import cpu
from fastrnn.ops.cells.base import Step
from fastrnn.testing import Problem

faulthandler.dump_traceback_later(100, exit=True)
torch.set_num_threads(1)
cases = [  # teams, tiles, and more tiles than threads
    Problem(steps, batch, groups, hidden, "lengths", dtype=torch.float32, kind=kind)
    for steps, batch, groups, hidden in [(30, 1, 1, 320), (20, 70, 2, 65), (4, 900, 1, 60)]
    for kind in ("RNN", "LSTM")
]
inputs = [problem.inputs() for problem in cases]
x, weight = torch.randn(2000, 90), torch.randn(270, 90)


def results():  # of kernels only: torch's own operations would start its threads
    found = [torch.ops.fastrnn.linear(x[:rows], weight, None) for rows in (60, 2000)]
    for pre, given in inputs:
        forward = cpu.BACKEND.recurrence(pre, given, save=True)
        grads = Outputs(*forward[:3])  # any numbers will do
        saved = Step(State(forward.out), forward.gates, forward.inner)
        found += [*forward, *cpu.BACKEND.recurrence_backward(grads, saved, given)]
    return [x for x in found if x is not None]


def running():
    return len(os.listdir("/proc/self/task"))


alone = results()
torch.set_num_threads(threads)
before = running()
repeats = [results() for _ in range(3)]
print(running() - before)
torch.set_num_threads(1)
for again in repeats:
    assert all(map(torch.equal, alone, again))
"""


def threads_created(cpus: int, threads: int) -> int:
    bound = {"GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(cpus), str(threads)],
        env={name: value for name, value in os.environ.items() if name not in bound},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.slow
def test_one_cpu_runs_one_thread() -> None:
    """torch's pool of threads does not even start."""
    assert threads_created(1, 8) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs",
)
@pytest.mark.parametrize("threads", [2, 8])
def test_two_cpus_run_threads(threads: int) -> None:
    """torch starts all of its threads; `test_plan.py` tests how many of them get tasks."""
    assert threads_created(2, threads) == threads - 1
