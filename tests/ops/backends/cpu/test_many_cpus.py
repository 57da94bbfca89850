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
from torch.nn.utils.rnn import pack_padded_sequence
import fastrnn
from fastrnn import FusedGRU, FusedLSTM, FusedRNN

seed, count = map(int, sys.argv[1:])
torch.manual_seed(seed)
rng = random.Random(seed)


def results(rnn, x, given, packed, train):
    with torch.set_grad_enabled(train):
        if packed:
            sequence = pack_padded_sequence(x, given["lengths"], rnn.batch_first, False)
            (output, *_), last = rnn(sequence)
        else:
            output, last = rnn(x, **given)
    found = [output, *(last if isinstance(last, tuple) else (last,))]
    # torch's products of all rows give the gradients of the weights.
    return [*found, *torch.autograd.grad(output.sum(), x)] if train else found


for i in range(count):
    cls = rng.choice((FusedRNN, FusedLSTM, FusedGRU))
    dtype = rng.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16))
    batch, most = rng.choice(((1, 700), (rng.randint(2, 9), 300), (rng.randint(10, 150), 100)))
    steps = rng.choice((1, 2, 7, 50 if batch > 20 else 150))
    inputs, hidden = rng.randint(1, 200), rng.randint(1, most)
    heads = rng.choice((1, 1, 2)) if hidden % 2 == 0 else 1
    options = {"num_heads": heads} if heads > 1 else {}
    for name in ("bidirectional", "batch_first", "learned_h0"):
        options[name] = rng.random() < 0.3
    rnn = cls(inputs, hidden, dtype=dtype, num_layers=rng.choice((1, 1, 2)), **options)
    shape = (batch, steps) if rnn.batch_first else (steps, batch)
    x = torch.randn(*shape, inputs, dtype=dtype, requires_grad=True)
    given, packed = {}, False
    if rng.random() < 0.4:
        given["lengths"] = torch.randint(1, steps + 1, (batch,))
        packed = rng.random() < 0.5
    elif rng.random() < 0.3 and not rnn.learned_h0:  # together, torch multiplies in the backward
        given["resets"] = torch.rand(*shape) < 0.1
    with fastrnn.use_backend("cpu"):
        for train in (False, True):
            torch.set_num_threads(1)
            expected = results(rnn, x, given, packed, train)
            for threads in (2, 3, 8):
                torch.set_num_threads(threads)
                found = results(rnn, x, given, packed, train)
                case = i, rnn, dtype, x.shape, given, train, threads
                assert all(map(torch.equal, expected, found)), case
print("equal:", count)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program(tmp_path_factory, "many_cpus.cpp", "-shared", "-fPIC")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "count"), [(0, 60), pytest.param(1, 2000, marks=pytest.mark.exhaustive)]
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
