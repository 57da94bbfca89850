"""Test trainings in bf16, and of different precision in one process."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from fastrnn.fusion import ConfigError, FusionNetwork, load, load_dataset, read_manifest
from fastrnn.fusion.training.devices import make_accelerator, resolve_precision
from fastrnn.fusion.training.sharding import check_strategy

from .conftest import TRAINING, quick

BF16 = replace(TRAINING, precision="bf16")


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model.safetensors")


def test_bf16_computes_in_bf16_with_float32_weights(manifest, tmp_path, monkeypatch):
    forward, seen = FusionNetwork.forward, set()

    def watching(self, batch, **how):
        logits = forward(self, batch, **how)
        seen.add((self.training, logits.dtype))
        return logits

    monkeypatch.setattr(FusionNetwork, "forward", watching)
    run = quick(manifest, tmp_path / "run", BF16)
    # The threshold is tuned on predictions in float32, as `predict` makes them.
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16), (False, torch.float32)}
    found = weights(run)
    assert {each.dtype for each in found.values()} == {torch.float32}
    # At least some weights need more than the 8 bits of bf16.
    assert any(not each.equal(each.bfloat16().float()) for each in found.values())
    seen.clear()
    network = load(run.folder).network
    batch = load_dataset(read_manifest(manifest), run.processor).batch(range(4))
    with torch.no_grad():
        # The trained network is no longer wrapped for bf16.
        assert torch.equal(run.trained[0].model.eval()(batch), network(batch))
    assert seen == {(False, torch.float32)}


@pytest.mark.slow
def test_fits_of_different_precision_in_one_process(manifest, tmp_path):
    """An earlier fit has no influence on a later one."""
    runs = [
        quick(manifest, tmp_path / str(number), training)
        for number, training in enumerate((TRAINING, BF16, TRAINING, BF16))
    ]
    first, half, second, again = map(weights, runs)
    for name, each in first.items():
        assert torch.equal(second[name], each)
        assert torch.equal(again[name], half[name])
    assert any(not half[name].equal(each) for name, each in first.items())
    for name, each in first.items():  # close: a weight moves by about the rate in each step
        assert (half[name] - each).abs().max() < 6 * TRAINING.learning_rate


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(None, "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_auto_is_bf16_on_gpus_that_are_fast_at_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert resolve_precision("auto") == expected
    for given in ("fp32", "bf16", "fp16"):
        assert resolve_precision(given) == given


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may compute in bf16")
def test_the_precision_is_saved(manifest, tmp_path):
    assert TRAINING.precision == "auto"
    run = quick(manifest, tmp_path / "run")
    assert run.config.train.precision == load(run.folder).config.train.precision == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in fp16")
def test_fp16_needs_a_gpu(manifest, tmp_path):
    with pytest.raises(ConfigError, match="choose bf16 or fp32"):
        make_accelerator("fp16")
    with pytest.raises(ConfigError, match="choose bf16 or fp32"):
        quick(manifest, tmp_path / "run", replace(TRAINING, precision="fp16"))
    assert not (tmp_path / "run").exists()
    assert make_accelerator("fp32").mixed_precision == "no"  # the state is usable again


def test_an_engine_with_its_own_loop_is_rejected():
    class WithDeepSpeed:
        distributed_type = DistributedType.DEEPSPEED

    with pytest.raises(ConfigError, match="DEEPSPEED is not supported; launch with DDP or FSDP"):
        check_strategy(WithDeepSpeed())
