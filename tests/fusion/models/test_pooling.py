"""Test pooling over time and of images against plain code, and the mixture of logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional

from fastrnn.fusion.models.encoders import ImageEncoder
from fastrnn.fusion.models.network import build, equal_mixture, mix
from fastrnn.fusion.models.pooling import Pooling
from fastrnn.fusion.training.mixture import fit_weights

from ..synthetic import Rows, config, task


@pytest.mark.parametrize(
    "kinds", [("mean",), ("max",), ("attention",), ("state",), ("max", "state", "mean")]
)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_pooling_is_that_of_each_row_alone(kinds, cell):
    pool = Pooling(config(pooling=kinds, cell=cell)).eval()
    x, lengths = torch.randn(3, 7, 16), torch.tensor([7, 1, 4])
    found = pool(torch.where(torch.arange(7)[:, None] < lengths[:, None, None], x, 1e4), lengths)
    for row, length in enumerate(lengths.tolist()):
        steps = x[row, :length]
        parts = []
        for kind in kinds:
            if kind == "mean":
                parts.append(steps.mean(0))
            elif kind == "max":
                parts.append(steps.max(0).values)
            elif kind == "attention":
                parts.append((pool.score(steps).softmax(0) * steps).sum(0))
            else:
                parts.append(pool.rnn(steps[None])[0][0, -1])
        expected = torch.cat(parts) if kinds == ("state",) else pool.project(torch.cat(parts))
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_silence_at_the_end_leaves_the_other_poolings_alone():
    """Frames that repeat the mean keep it, and do not pass the maximum."""
    pool = Pooling(config(pooling=("mean", "max")))
    x = torch.randn(2, 5, 16)
    longer = torch.cat([x, x.mean(1, keepdim=True).expand(-1, 4, -1)], 1)
    lengths = torch.tensor([5, 5])
    torch.testing.assert_close(pool(x, lengths), pool(longer, lengths + 4))


@pytest.mark.parametrize("kinds", [("max", "state", "mean"), ("mean",), ("state",)])
def test_the_means_and_maxima_of_image_stages_join_the_grid(kinds):
    encoder = ImageEncoder(config(pooling=kinds, conv=(4, 8), grid=2, image_size=9))
    frames = torch.randint(0, 256, (3, 3, 9, 9), dtype=torch.uint8)
    maps, found = frames / 127.5 - 1, []
    for layer in (encoder.stages[0], encoder.stages[3]):
        maps = functional.conv2d(maps, layer.weight, layer.bias, padding=1)
        maps = functional.max_pool2d(maps.relu(), 2)
        pixels = maps.flatten(2)
        found += [
            pixels.mean(2) if kind == "mean" else pixels.max(2).values
            for kind in kinds
            if kind != "state"
        ]
    grid = functional.adaptive_avg_pool2d(maps, 2).flatten(1)
    joined = torch.cat([grid, *found], 1)
    if found:
        joined = functional.layer_norm(joined, joined.shape[1:])
    rows = torch.tensor([2, 0, 2, 1])
    expected = encoder.project(joined)[rows]
    result = encoder({"image_frames": frames, "image": rows})
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_the_parts_add_up_with_the_mixture():
    model = config(missing=("text",))
    network, batch = build(model).eval(), Rows(model).batch()
    network.mixture.copy_(torch.rand(len(network.mixture)))
    parts = network(batch, parts=True)
    expected = sum(w * part for w, part in zip(network.mixture, parts, strict=True))
    torch.testing.assert_close(network(batch), expected)
    other = batch["text_ngrams"].flip(1)
    batch["text_ngrams"] = torch.where(batch["text_present"][:, None], batch["text_ngrams"], other)
    changed = network(batch, parts=True)
    torch.testing.assert_close(changed, parts)  # a missing text's n-grams are not read


@pytest.mark.parametrize("problem_type", ["binary", "multiclass", "multilabel", "regression"])
def test_the_mixture_prefers_the_part_that_knows(problem_type):
    goal = task(problem_type)
    outputs = goal.num_outputs
    label = Rows(config(problem_type=problem_type, outputs=outputs), 500).batch()["label"]
    shape = (500, outputs)
    target = label.double() if label.dim() == 2 else label[:, None].double()
    if problem_type == "multiclass":
        target = torch.nn.functional.one_hot(label, outputs).double()
    right = torch.rand(shape) < 0.9  # otherwise the best weight is infinite
    knows = target if problem_type == "regression" else (4 * target - 2) * (2 * right - 1)
    parts = torch.stack([torch.randn(shape).double(), knows, torch.randn(shape).double()])
    loss = lambda logits: goal.loss(logits, label)  # noqa: E731
    found = fit_weights(parts, loss, 500)
    assert found[1] > 0.8
    assert found[[0, 2]].max() < 0.4  # the prior is 0 and 0.5
    assert loss(mix(found, parts)) < loss(mix(equal_mixture(2), parts))
    few = fit_weights(parts[:, :1], lambda logits: goal.loss(logits, label[:1]), 1)
    prior = torch.tensor([0, 0.5, 0.5])
    assert (few - prior).abs().max() < 0.7  # one row hardly outweighs the prior
    fused = fit_weights(parts[[1, 0, 2]], loss, 500)
    assert fused[0] > 0.8  # what the fusion knows counts, once enough rows show it


@pytest.mark.parametrize("correlation", [0.5, 0.9, 1.5])
def test_the_weights_of_correlated_readouts_are_the_best_that_are_not_negative(correlation):
    """Without bounds, the second readout would be subtracted, to cancel the noise of the first."""
    noise, signal = torch.randn(2, 400).double()
    label = (torch.rand(400).double() < signal.sigmoid()).double()
    parts = torch.stack([0 * noise, signal + 3 * correlation * noise, 0.2 * signal + 3 * noise])
    loss = partial(torch.nn.functional.binary_cross_entropy_with_logits, target=label)

    def total(weights):
        prior = torch.tensor([0, 0.5, 0.5]).double()
        return 400 * loss(mix(weights, parts)) + (weights - prior).square().sum()

    found = fit_weights(parts, loss, 400).double()
    steps = torch.arange(0, 1.01, 0.05).double()
    grid = torch.cartesian_prod(torch.zeros(1).double(), steps, steps)
    assert found.min() == 0
    assert total(found) <= min(map(total, grid)) + 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_diverged_keeps_the_readouts_alone(bad):
    parts = torch.full((3, 10, 1), bad).double()
    found = fit_weights(parts, torch.sum, 10)
    assert found.tolist() == [0, 0.5, 0.5]


def test_without_readouts_the_fusion_is_the_only_part():
    model = config(unimodal_heads=False)
    network, batch = build(model), Rows(model).batch()
    assert network.mixture.tolist() == [1.0]
    assert torch.equal(network(batch, parts=True)[0], network(batch))
