"""Test batches, encoders and fusions: shapes, independence of padding, and the modes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrnn.fusion import ConfigError, DataConfig, ModelConfig, Preprocessor, build, read_manifest
from fastrnn.fusion.data.processor import IGNORE
from fastrnn.fusion.models.encoders import pool_to_steps
from fastrnn.fusion.models.torch_layers import with_torch_layers
from fastrnn.fusion.tasks import objectives
from fastrnn.fusion.training.run import configure, variants

DATA = DataConfig(image_size=8, sample_rate=8000, mels=12, max_tokens=3)
OPTIONS = {"width": 16, "hidden": 24, "conv": (4, 8), "grid": 2}


@pytest.fixture
def static(rows, save):
    manifest = read_manifest(save(rows))
    preprocessor = Preprocessor.fit(manifest, range(20), DATA)
    return manifest, preprocessor, preprocessor.load(manifest, range(20))


@pytest.fixture
def stepped(streams, save):
    manifest = read_manifest(save(streams))
    preprocessor = Preprocessor.fit(manifest, range(20), DATA)
    return manifest, preprocessor, preprocessor.load(manifest, range(20))


def test_static_batch(static):
    batch = static[2].collate([3, 0, 3])
    assert batch["frames"].shape == (2, 3, 8, 8)  # row 3's image once
    assert batch["image"].tolist() == [1, 0, 1]
    assert batch["audio"].shape[::2] == (3, 12)
    assert batch["audio_lengths"].tolist() == [17, 11, 17]
    assert batch["text"].shape == (3, int(batch["text_lengths"].max()))
    assert batch["label"].tolist() == [1, 0, 1]
    assert "steps" not in batch


def test_texts_are_truncated(static):
    examples = static[2]
    assert max(len(each) for each in examples.text) == DATA.max_tokens
    assert 0 < examples.texts_cut < 20


def test_stream_batch(stepped):
    batch = stepped[2].collate([0, 3, 1])
    assert batch["image"].shape == (3, 4)
    assert batch["steps"].sum(1).tolist() == [1, 4, 2]
    assert batch["label"].tolist() == [
        [0, IGNORE, IGNORE, IGNORE],
        [IGNORE, 1, 2, 0],
        [IGNORE, 2, IGNORE, IGNORE],
    ]


def test_one_image_for_many_labels(streams, save):
    rows = [row | {"image": row["image"][0]} for row in streams]
    manifest = read_manifest(save(rows))
    batch = Preprocessor.fit(manifest, range(20), DATA).load(manifest, range(20)).collate([2, 3])
    assert batch["image"].tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert batch["frames"].shape[0] == 2
    assert batch["steps"].sum(1).tolist() == [3, 4]


def modes(case) -> list[ModelConfig]:
    manifest, preprocessor, _ = case
    return list(variants(configure(manifest, preprocessor, OPTIONS)).values())


@pytest.mark.parametrize("case", ["static", "stepped"])
def test_every_mode_has_outputs_and_gradients(case, request):
    case = request.getfixturevalue(case)
    batch = case[2].collate(range(20))
    for config in modes(case):
        model = build(config)
        logits = model(batch)
        assert logits.shape == (*batch["label"].shape, config.outputs)
        assert objectives.predict(config.problem_type, logits).shape == batch["label"].shape
        objectives.loss(config.problem_type, logits, batch["label"]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("case", ["static", "stepped"])
def test_padding_changes_nothing(case, request):
    """A row's output does not depend on the other rows of its batch."""
    case = request.getfixturevalue(case)
    examples = case[2]
    for config in modes(case):
        model = build(config).eval()
        together = model(examples.collate(range(20)))
        for row in (0, 1, 7):
            alone = model(examples.collate([row]))[0]
            other = together[row][: len(alone)] if config.problem_type == "steps" else together[row]
            # float32 sums of at most 400 terms in another order
            torch.testing.assert_close(alone, other, atol=1e-5, rtol=1e-5)


def test_stream_with_one_label(streams, save):
    rows = [row | {"label": str(number % 2)} for number, row in enumerate(streams)]
    manifest = read_manifest(save(rows))
    preprocessor = Preprocessor.fit(manifest, range(20), DATA)
    batch = preprocessor.load(manifest, range(20)).collate(range(20))
    for config in variants(configure(manifest, preprocessor, OPTIONS)).values():
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
    manifest, preprocessor, examples = static
    batch = examples.collate(range(20))
    for fusion, used in (("concat", False), ("tokens", True)):
        model = build(configure(manifest, preprocessor, OPTIONS | {"fusion": fusion}))
        objectives.loss("binary", model(batch), batch["label"]).backward()
        assert bool(model.head.rnn.weight_hh_l0.grad.any()) is used


def test_late_adds_logits(static):
    manifest, preprocessor, examples = static
    batch = examples.collate(range(4))
    model = build(configure(manifest, preprocessor, OPTIONS | {"fusion": "late"}))
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
    manifest, preprocessor, examples = request.getfixturevalue(case)
    batch = examples.collate(range(20))
    model = build(configure(manifest, preprocessor, OPTIONS | {"cell": cell}))
    other = with_torch_layers(model)
    ours, theirs = model(batch), other(batch)
    scored = batch["label"] != IGNORE
    # float32 over at most 30 steps
    torch.testing.assert_close(ours[scored], theirs[scored], atol=1e-5, rtol=1e-5)
    for logits in (ours, theirs):
        objectives.loss(model.config.problem_type, logits, batch["label"]).backward()
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        # the same, summed over 20 rows
        torch.testing.assert_close(
            mine.grad, its.grad, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(("cell", "layer"), [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_recurrent_parameters_have_the_names_of_torch(static, cell, layer):
    """Runs saved with torch's layers load."""
    manifest, preprocessor, _ = static
    model = build(configure(manifest, preprocessor, OPTIONS | {"cell": cell}))
    found = {name: each.shape for name, each in model.state_dict().items() if "rnn" in name}
    expected = {}
    for name, hidden in (("encoders.audio", 16), ("encoders.text", 16), ("head", 24)):
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
