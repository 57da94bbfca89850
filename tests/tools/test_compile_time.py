"""The costs of torch.compile, as measured by tools/compile_time.py."""

import pytest
import torch

from tools import compile_time
from tools.compile_time import Case, Cost, measure


@pytest.fixture(autouse=True)
def fewer_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_time, "LENGTHS", 3)


def costs(layer: str, kind: str) -> list[Cost]:
    return [measure(Case(layer, kind, steps, 2, 3), "aot_eager") for steps in (2, 4)]


@pytest.mark.slow
def test_fused_rnn_compiles_to_one_node_for_any_number_of_steps() -> None:
    short, long = costs("fastrnn", "training")
    assert short.seconds > 0
    assert short.nodes == long.nodes
    assert short.graphs == long.graphs == 2  # one for the first length, one for all others


@pytest.mark.exhaustive
@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "allow_rnn"), reason="this torch does not compile nn.RNN"
)
def test_nn_rnn_is_unrolled() -> None:
    short, long = costs("nn.RNN", "inference")
    assert long.nodes > 1.3 * short.nodes
    assert long.graphs == compile_time.LENGTHS


def test_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(case: Case) -> Cost:
        return Cost(
            case.steps / 8, case.steps + len(case.kind), 2 if case.layer == "fastrnn" else 9
        )

    monkeypatch.setattr(compile_time, "measure_apart", measured)
    compile_time.main(["--steps", "4"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"torch {torch.__version__}, inductor, no caches; B 8, I = H 64"
    assert [line.split() for line in said[3:]] == [
        ["fastrnn", "inference", "4", "0.50", "13", "2"],
        ["nn.RNN", "inference", "4", "0.50", "13", "9"],
        ["fastrnn", "training", "4", "0.50", "12", "2"],
        ["nn.RNN", "training", "4", "0.50", "12", "9"],
    ]


@pytest.mark.exhaustive
def test_measure_in_a_new_process() -> None:
    cost = compile_time.measure_apart(Case("fastrnn", "inference", 3, 2, 3))
    assert cost.seconds > 0.1
    assert cost.graphs == 2
