"""A call that runs out of memory raises; it neither hangs nor ends the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpp.build import build_program
from tests.utils.marks import requires_extension

pytestmark = [
    requires_extension,
    pytest.mark.skipif(sys.platform != "linux", reason="replaces glibc's malloc"),
]

#: Makes every allocation of every call fail in turn; runs in its own process.
SCRIPT = """
import ctypes, faulthandler, sys
import torch
from fastrnn.ops.backends import cpu
from fastrnn.testing import Problem

assert cpu.EXTENSION.unavailable_reason is None
faulthandler.dump_traceback_later(100, exit=True)
memory = ctypes.CDLL(sys.argv[1])
memory.watch.argtypes = ctypes.c_size_t, ctypes.c_size_t
with open("/proc/self/maps") as maps:
    lines = [line.split()[0].split("-") for line in maps if "/_C." in line and "fastrnn" in line]
memory.watch(int(lines[0][0], 16), int(lines[-1][1], 16))
torch.set_num_threads(2)
torch.manual_seed(0)
calls = {}
for name, problem in {
    "team": Problem(9, 1, 1, 320, dtype=torch.float32),
    "teams": Problem(9, 1, 1, 320, "lengths", resets=True, dtype=torch.bfloat16),
    "tiles": Problem(20, 70, 2, 45, "packed", dtype=torch.float32),
    "one thread": Problem(2, 2, 1, 5, dtype=torch.float64),
}.items():
    arguments = *problem.tensors(), *problem.options
    out, h_n = cpu.BACKEND.forward(*arguments)
    given = torch.randn_like(out), torch.randn_like(h_n), out, *arguments[1:]
    calls[f"{name}: forward"] = lambda a=arguments: cpu.BACKEND.forward(*a)
    calls[f"{name}: backward"] = lambda g=given: cpu.BACKEND.backward(*g)
    not_contiguous = arguments[1].mT.contiguous().mT
    calls[f"{name}: copy"] = lambda a=arguments, w=not_contiguous: (
        cpu.BACKEND.forward(a[0], w, *a[2:])
    )
for dtype in (torch.float32, torch.bfloat16):
    for rows in (3, 500):
        x, weight = torch.randn(rows, 90, dtype=dtype), torch.randn(77, 90, dtype=dtype)
        calls[f"linear {rows} {dtype}"] = lambda x=x, w=weight: (
            torch.ops.fastrnn.linear(x, w, None),
        )
for name, call in calls.items():
    expected = call()
    memory.fail_after(-1)
    call()
    count = memory.seen_since()
    assert count > 2, (name, count)
    raised = unreached = 0
    for k in range(count):
        memory.fail_after(k)
        try:
            result = call()
        except (MemoryError, RuntimeError) as error:
            memory.fail_after(-1)
            message = str(error)
            assert isinstance(error, MemoryError) or "memory" in message or "allocate" in message
            raised += 1
            continue
        unreached += memory.seen_since() <= k  # a busy machine forms no team
        memory.fail_after(-1)
        assert all(map(torch.equal, expected, result)), (name, k)
    handled = count - raised - unreached  # torch may handle a failure of its own
    assert raised > 2 and handled <= 1, (name, count, raised, unreached)
    assert all(map(torch.equal, expected, call())), name
    print(name, count)
tiny = torch.full((1 << 20,), 1e-40)
assert bool((tiny * 1 > 0).all()), "an exception left a thread in the mode without denormals"
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program(tmp_path_factory, "failing_memory.cpp", "-O2", "-shared", "-fPIC")


@pytest.mark.slow
def test_every_failed_allocation_raises(library: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(library)],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(run.stdout.splitlines()) == 16
