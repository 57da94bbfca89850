"""Test batches, encoders and fusions: shapes, independence of padding, and the modes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrnn.fusion import (
    ConfigError,
    DataConfig,
    FusionDataset,
    ModelConfig,
    Processor,
    build,
    load_dataset,
    read_manifest,
)
from fastrnn.fusion.batch import IGNORE
from fastrnn.fusion.models.encoders import pool_to_steps
from fastrnn.fusion.models.torch_layers import with_torch_layers
from fastrnn.fusion.training.baselines import configure, variants

DATA = DataConfig(image_size=8, sample_rate=8000, mels=12, max_tokens=3)
OPTIONS = {"width": 16, "hidden": 24, "conv": (4, 8), "grid": 2, "dropout": 0.0}


def load(path) -> FusionDataset:
    manifest = read_manifest(path)
    return load_dataset(manifest, Processor.fit(manifest, range(20), DATA))


@pytest.fixture
def static(rows, save) -> FusionDataset:
    return load(save(rows))


@pytest.fixture
def stepped(streams, save) -> FusionDataset:
    return load(save(streams))


def test_static_batch(static):
    batch = static.batch([3, 0, 3])
    assert batch["image_frames"].shape == (2, 3, 8, 8)  # row 3's image once
    assert batch["image"].tolist() == [1, 0, 1]
    assert batch["audio"].shape[::2] == (3, 12)
    assert batch["audio_lengths"].tolist() == [17, 11, 17]
    assert batch["text"].shape == (3, int(batch["text_lengths"].max()))
    assert batch["label"].tolist() == [1, 0, 1]
    assert "steps" not in batch


def test_texts_are_truncated(static):
    assert max(len(static[row]["text"]) for row in range(20)) == DATA.max_tokens
    assert 0 < static.truncated < 20


def test_stream_batch(stepped):
    batch = stepped.batch([0, 3, 1])
    assert batch["image"].shape == (3, 4)
    assert batch["steps"].sum(1).tolist() == [1, 4, 2]
    assert batch["label"].tolist() == [
        [0, IGNORE, IGNORE, IGNORE],
        [IGNORE, 1, 2, 0],
        [IGNORE, 2, IGNORE, IGNORE],
    ]


def test_one_image_for_many_labels(streams, save):
    rows = [row | {"image": row["image"][0]} for row in streams]
    batch = load(save(rows)).batch([2, 3])
    assert batch["image"].tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert batch["image_frames"].shape[0] == 2
    assert batch["steps"].sum(1).tolist() == [3, 4]


def model_config(dataset: FusionDataset, **options) -> ModelConfig:
    return configure(dataset.manifest, dataset.processor, OPTIONS | options)


def modes(dataset: FusionDataset) -> list[ModelConfig]:
    return list(variants(model_config(dataset)).values())


@pytest.mark.parametrize("case", ["static", "stepped"])
def test_every_mode_has_outputs_and_gradients(case, request):
    dataset = request.getfixturevalue(case)
    task, batch = dataset.processor.task, dataset.batch(range(20))
    for config in modes(dataset):
        model = build(config)
        logits = model(batch)
        assert logits.shape == (*batch["label"].shape, config.outputs)
        assert task.predict(logits).shape == batch["label"].shape
        task.loss(logits, batch["label"]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("case", ["static", "stepped"])
def test_padding_changes_nothing(case, request):
    """A row's output does not depend on the other rows of its batch."""
    dataset = request.getfixturevalue(case)
    for config in modes(dataset):
        model = build(config).eval()
        together = model(dataset.batch(range(20)))
        for row in (0, 1, 7):
            alone = model(dataset.batch([row]))[0]
            other = together[row][: len(alone)] if config.problem_type == "steps" else together[row]
            # float32 sums of at most 400 terms in another order
            torch.testing.assert_close(alone, other, atol=1e-5, rtol=1e-5)


def test_stream_with_one_label(streams, save):
    rows = [row | {"label": str(number % 2)} for number, row in enumerate(streams)]
    dataset = load(save(rows))
    batch = dataset.batch(range(20))
    for config in modes(dataset):
        assert config.problem_type == "binary"
        assert build(config)(batch).shape == (20, 1)


def test_pool_to_steps_is_adaptive_pooling():
    x = torch.randn(3, 11, 5)
    lengths, counts = torch.tensor([11, 4, 2]), torch.tensor([3, 4, 4])
    steps = torch.arange(4) < counts[:, None]
    pooled = pool_to_steps(x, lengths, steps)
    for row in range(3):
        valid = x[row, : lengths[row]].t()[None]
        expected = torch.nn.functional.adaptive_avg_pool1d(valid, int(counts[row]))[0].t()
        torch.testing.assert_close(pooled[row, : counts[row]], expected)
        assert (pooled[row, counts[row] :] == 0).all()


def test_recurrent_weights_need_several_steps(static):
    """A concatenated vector is a sequence of one step: with a zero state, W_hh has no effect."""
    batch = static.batch(range(20))
    for fusion, used in (("concat", False), ("tokens", True)):
        model = build(model_config(static, fusion=fusion))
        static.processor.task.loss(model(batch), batch["label"]).backward()
        assert bool(model.head.rnn.weight_hh_l0.grad.any()) is used


def test_late_adds_logits(static):
    batch = static.batch(range(4))
    model = build(model_config(static, fusion="late"))
    each = [model.networks[name](batch) for name in ("audio", "image", "text")]
    torch.testing.assert_close(model(batch), each[0] + each[1] + each[2])


def test_recurrent_weights_start_orthogonal(static):
    model = build(modes(static)[0])
    for name, weight in model.named_parameters():
        if "weight_hh" in name:
            torch.testing.assert_close(weight @ weight.t(), torch.eye(len(weight)))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("case", ["static", "stepped"])
def test_torch_layers_give_the_same_outputs_and_gradients(case, cell, request):
    dataset = request.getfixturevalue(case)
    batch = dataset.batch(range(20))
    model = build(model_config(dataset, cell=cell))
    other = with_torch_layers(model)
    ours, theirs = model(batch), other(batch)
    scored = batch["label"] != IGNORE
    # float32 over at most 30 steps
    torch.testing.assert_close(ours[scored], theirs[scored], atol=1e-5, rtol=1e-5)
    for logits in (ours, theirs):
        dataset.processor.task.loss(logits, batch["label"]).backward()
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        # the same, summed over 20 rows
        torch.testing.assert_close(
            mine.grad, its.grad, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(("cell", "layer"), [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_recurrent_parameters_have_the_names_of_torch(static, cell, layer):
    """Runs saved with torch's layers load."""
    model = build(model_config(static, cell=cell))
    found = {name: each.shape for name, each in model.state_dict().items() if "rnn" in name}
    expected = {}
    for name, hidden in (("encoders.audio.pool", 16), ("encoders.text.pool", 16), ("head", 24)):
        for parameter, each in layer(16, hidden).state_dict().items():
            expected[f"{name}.rnn.{parameter}"] = each.shape
    assert found == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fusion": "sum"}, "fusion must be one of"),
        ({"fusion": "aligned"}, "concat, tokens, parallel, init, late"),
        ({"fusion": "tokens", "stream": True}, "aligned, late"),
        ({"problem_type": "steps"}, "sequences"),
        ({"modalities": ()}, "at least one"),
    ],
)
def test_invalid_configurations(options, text):
    with pytest.raises(ConfigError, match=text):
        ModelConfig(**({"modalities": ("image", "text")} | options))
