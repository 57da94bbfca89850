"""Calls are divided among more CPUs than the machine that runs the tests may have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpp.build import build_program
from tests.utils.marks import requires_extension

pytestmark = [
    requires_extension,
    pytest.mark.skipif(sys.platform != "linux", reason="uses Linux interfaces"),
]

#: Random layers, which have the same bits with every number of threads. The arguments are a seed
#: and the number of layers.
SCRIPT = """
import random, sys
import torch
import fastrnn
from fastrnn import FusedGRU, FusedLSTM, FusedRNN

seed, count = map(int, sys.argv[1:])
torch.manual_seed(seed)
rng = random.Random(seed)


def results(rnn, x, lengths, train):
    with torch.set_grad_enabled(train):
        output, last = rnn(x, lengths=lengths)
    found = [output, *(last if isinstance(last, tuple) else (last,))]
    # torch's products of all rows give the gradients of the weights.
    return [*found, *torch.autograd.grad(output.sum(), x)] if train else found


for i in range(count):
    cls = rng.choice((FusedRNN, FusedLSTM, FusedGRU))
    dtype = rng.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16))
    batch, most = rng.choice(((1, 700), (rng.randint(2, 9), 300), (rng.randint(10, 150), 100)))
    steps = rng.choice((1, 2, 7, 50 if batch > 20 else 150))
    inputs, hidden = rng.randint(1, 200), rng.randint(1, most)
    rnn = cls(inputs, hidden, bidirectional=rng.random() < 0.3, dtype=dtype)
    x = torch.randn(steps, batch, inputs, dtype=dtype, requires_grad=True)
    lengths = torch.randint(0, steps + 1, (batch,)) if rng.random() < 0.4 else None
    with fastrnn.use_backend("cpu"):
        for train in (False, True):
            torch.set_num_threads(1)
            expected = results(rnn, x, lengths, train)
            for threads in (2, 3, 8):
                torch.set_num_threads(threads)
                found = results(rnn, x, lengths, train)
                case = i, rnn, dtype, x.shape, lengths, train, threads
                assert all(map(torch.equal, expected, found)), case
print("equal:", count)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program(tmp_path_factory, "many_cpus.cpp", "-shared", "-fPIC")


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 100), pytest.param(1, 2000, marks=pytest.mark.exhaustive)]
)
def test_bits_do_not_depend_on_the_threads(library: Path, seed: int, count: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(seed), str(count)],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == f"equal: {count}\n", run.stdout + run.stderr[-3000:]
