"""The comparison of a training step with the fused layers and with torch's."""

from __future__ import annotations

import torch

from benchmarks.fusion import training_step
from fastrnn.fusion import TrainConfig, build
from tests.fusion.synthetic import Rows, config, task


def test_both_versions_are_timed_and_the_model_is_kept():
    model = config(fusion="init")
    network, batch = build(model), Rows(model).batch()
    before = {name: each.clone() for name, each in network.state_dict().items()}
    found = training_step.compare(
        network, batch, task(model.problem_type), TrainConfig(), repeats=1
    )
    assert [each.what for each in found] == ["whole training step", "recurrent layers alone"]
    assert all(each.fused > 0 and each.torch > 0 for each in found)
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name])
    assert len(training_step.table(found, "").rows) == 2
