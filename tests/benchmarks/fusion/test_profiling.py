"""The profile of a training step."""

from __future__ import annotations

import pytest
import torch

from benchmarks.fusion import profiling
from tests.fusion.trained import trained_run


@pytest.mark.exhaustive
def test_profile_accounts_for_the_step(tmp_path):
    run = trained_run(tmp_path, "binary", baselines=False)
    before = {name: each.clone() for name, each in run.trained[0].model.state_dict().items()}
    shares = profiling.profile(run)
    assert shares.data > 0
    assert 0 < shares.recurrent < shares.step
    assert 0 < sum(share for _, share in shares.slowest) <= 1
    for name, weight in run.trained[0].model.state_dict().items():
        assert torch.equal(weight, before[name])
