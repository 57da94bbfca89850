"""Without the extension, layers run torch's, and the reference for what torch's layers lack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

import pytest

SETUP = """
import json, sys, traceback
sys.modules["fastrnn._C"] = None
import torch
from torch import nn
from torch.testing import assert_close
import fastrnn

def run_case(code, kinds):
    xs = torch.randn(5, 9, 2, 3, dtype=torch.float64)
    for kind in kinds:
        torch.manual_seed(0)
        x = xs[0].clone().requires_grad_()
        rnn = getattr(fastrnn, f"Fused{kind}")(3, 4, 2, bidirectional=True, dtype=torch.float64)
        torch_layer = getattr(nn, kind)(3, 4, 2, bidirectional=True, dtype=torch.float64)
        torch_layer.load_state_dict(rnn.state_dict())
        names = {"xs": xs, "x": x, "rnn": rnn, "torch_layer": torch_layer}
        exec(code, globals() | names)

failures = {}
for name, (code, kinds) in json.loads(sys.argv[1]).items():
    try:
        run_case(code, kinds)
    except Exception:
        failures[name] = traceback.format_exc()
print(json.dumps(failures))
"""

#: The layers of a case that takes long.
SOME = {"compile": ["RNN"], "export": ["LSTM"]}

CASES = {
    "the same bits": """
def run(layer):
    output, h_n = layer(x)
    return output, h_n, torch.autograd.grad(output.sum(), [x, *layer.parameters()])

assert_close(run(rnn), run(torch_layer), rtol=0, atol=0)
assert fastrnn.explain(9, 2, 4, device="cpu", mode=rnn.mode).backend == "torch"
""",
    "double backward": """
def second(layer):
    g, = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    return torch.autograd.grad(g.square().sum(), list(layer.parameters()))

assert_close(second(rnn), second(torch_layer))
""",
    "vmap": """
assert_close(torch.vmap(rnn)(xs)[0], torch.stack([torch_layer(x)[0] for x in xs]))
""",
    "gradients of each sample": """
def loss(parameters, x):
    return torch.func.functional_call(rnn, parameters, (x,))[0].sum()

parameters = {name: p.detach() for name, p in rnn.named_parameters()}
found = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, xs)
for sample, x in enumerate(xs):
    grads = torch.autograd.grad(torch_layer(x)[0].sum(), list(torch_layer.parameters()))
    names = [name for name, _ in torch_layer.named_parameters()]
    assert_close([found[name][sample] for name in names], list(grads))
""",
    "compile": """
compiled = torch.compile(rnn, fullgraph=True, dynamic=True, backend="aot_eager")
for steps in (9, 5):
    assert_close(compiled(x[:steps]), torch_layer(x[:steps]))
    grads = [torch.autograd.grad(f(x[:steps])[0].sum(), x)[0] for f in (compiled, torch_layer)]
    assert_close(*grads)
""",
    "export": """
steps = {0: torch.export.Dim("steps", min=2)}
program = torch.export.export(rnn.eval(), (x.detach(),), dynamic_shapes=(steps,))
for length in (9, 3):
    assert_close(program.module()(x[:length].detach()), torch_layer(x[:length].detach()))
""",
}


#: The cases that do not compile.
QUICK = [name for name in CASES if name != "compile"]


def failures(names: Iterable[str]) -> dict[str, str]:
    """Run cases in a process without the extension; return the traceback of each that fails."""
    cases = {name: (CASES[name], SOME.get(name, ["RNN", "LSTM", "GRU"])) for name in names}
    command = [sys.executable, "-c", SETUP, json.dumps(cases)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def failed() -> dict[str, str]:
    """The failures of all quick cases, which share a process: importing torch takes seconds."""
    return failures(QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK)
def test_without_the_extension(case: str, failed: dict[str, str]) -> None:
    assert case not in failed, failed[case]


@pytest.mark.slow
def test_compiled_without_the_extension() -> None:
    assert failures(["compile"]) == {}
