"""The cost of torch.compile: `python -m tools.compile_time` prints a table.

With torch._dynamo.config.allow_rnn, nn.RNN is compiled into a graph that contains every step, with
one graph for each length. A FusedRNN is one node, in one graph for all lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.report.markdown import aligned
from fastrnn import FusedRNN

LAYERS: dict[str, type[nn.RNNBase]] = {"fastrnn": FusedRNN, "nn.RNN": nn.RNN}
PASSES = ("inference", "training")
HEADER = ("layer", "pass", "T", "first call, s", "graph nodes", "graphs for ten lengths")

#: The number of lengths that a layer is called with: T, T + 1 and so on.
LENGTHS = 10


@dataclass(frozen=True)
class Case:
    """A layer of `size` inputs and units, compiled for a sequence."""

    layer: str  #: of LAYERS
    kind: str  #: of PASSES
    steps: int
    batch: int
    size: int


@dataclass(frozen=True)
class Cost:
    """The cost of compiling a case."""

    seconds: float  #: of the first call, in training with its backward pass
    nodes: int  #: of its graphs, forward and backward
    graphs: int  #: compiled for LENGTHS lengths


def measure(case: Case, backend: str) -> Cost:
    """Compile a case in this process, with a backend of torch.compile."""
    with torch._dynamo.config.patch(_allowances()):
        _compiled(nn.Linear(2, 2), backend)(torch.randn(2, 2))  # imports the compiler
        began = time.perf_counter()
        _run(case, _compiled(_layer(case), backend), case.steps)
        seconds = time.perf_counter() - began
        return Cost(seconds, _nodes(case), _graphs(case))


def _allowances() -> dict[str, object]:
    """Options of dynamo that allow nn.RNN to be compiled, for all lengths."""
    wanted = {"allow_rnn": True, "recompile_limit": 4 * LENGTHS}
    return {name: value for name, value in wanted.items() if hasattr(torch._dynamo.config, name)}


def _layer(case: Case) -> nn.Module:
    return LAYERS[case.layer](case.size, case.size).train(case.kind == "training")


def _compiled(module: nn.Module, backend: str | Callable) -> Callable:
    torch._dynamo.reset()
    return torch.compile(module, backend=backend)


def _run(case: Case, layer: Callable, steps: int) -> None:
    training = case.kind == "training"
    x = torch.randn(steps, case.batch, case.size, requires_grad=training)
    with torch.set_grad_enabled(training):
        output, h_n = layer(x)
        if training:
            (output.sum() + h_n.sum()).backward()


def _nodes(case: Case) -> int:
    """Count the nodes of the traced graphs, which contain every step of an unrolled loop."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    nodes = 0

    def count(graph: torch.fx.GraphModule, inputs: Sequence[object]) -> Callable:
        nonlocal nodes
        nodes += len(graph.graph.nodes)
        return make_boxed_func(graph.forward)

    _run(case, _compiled(_layer(case), aot_autograd(fw_compiler=count)), case.steps)
    return nodes


def _graphs(case: Case) -> int:
    counter = CompileCounterWithBackend("aot_eager")
    layer = _compiled(_layer(case), counter)
    for steps in range(case.steps, case.steps + LENGTHS):
        _run(case, layer, steps)
    return sum(len(graph.graph.nodes) > 0 for graph in counter.graphs)


def measure_apart(case: Case, backend: str = "inductor") -> Cost:
    """Run `measure` in a new process, with empty caches."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "TORCHINDUCTOR_CACHE_DIR": cache,
        }
        given = json.dumps({"case": asdict(case), "backend": backend})
        command = [sys.executable, "-m", "tools.compile_time", "--case", given]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{case} failed: {done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def table(costs: Iterable[tuple[Case, Cost]]) -> list[str]:
    """Return the lines of the table."""
    rows = [
        (*words(case), f"{cost.seconds:.2f}", str(cost.nodes), str(cost.graphs))
        for case, cost in costs
    ]
    return aligned([HEADER, *rows], 2)


def words(case: Case) -> tuple[str, str, str]:
    return case.layer, case.kind, str(case.steps)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.compile_time", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 100], help="default: 20 100")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="inputs and hidden units")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # for measure_apart
    given = parser.parse_args(arguments)
    if given.case:
        asked = json.loads(given.case)
        print(json.dumps(asdict(measure(Case(**asked["case"]), asked["backend"]))))
        return
    print(f"torch {torch.__version__}, inductor, no caches; B {given.batch}, I = H {given.size}\n")
    costs = []
    for steps in given.steps:
        for kind in PASSES:
            for layer in LAYERS:
                case = Case(layer, kind, steps, given.batch, given.size)
                print(*words(case), file=sys.stderr)
                costs.append((case, measure_apart(case)))
    print("\n".join(table(costs)))


if __name__ == "__main__":
    main()
