"""Test every fusion with every cell and problem_type: outputs, gradients and invariances."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from fastrnn.fusion import ConfigError, build
from fastrnn.fusion.config.schema import CELLS, PROBLEM_TYPES

from ..synthetic import ALL, Rows, config, task

EXHAUSTIVE = pytest.mark.exhaustive

STATIC = ("concat", "tokens", "parallel", "init", "late")
SOME_CELLS = ["rnn", "lstm", *(pytest.param(each, marks=EXHAUSTIVE) for each in ("gru", "none"))]
MODES = [
    {"fusion": fusion, "cell": cell, "missing": missing}
    for fusion, cell, missing in product(STATIC, CELLS, ((), ("image", "text")))
]
MODES += [
    {"stream": True, "fusion": fusion, "cell": cell, "problem_type": "steps"}
    for fusion, cell in product(("aligned", "late"), CELLS)
]
MODES += [
    {"stream": True, "missing": ("audio", "image", "series")},
    {"fusion": "tokens", "image_steps": True, "missing": ("image",)},
    {"fusion": "concat", "image_steps": True},
    {"fusion": "concat", "normalise": True},
    {"fusion": "concat", "grid": 0, "conv": (4,)},
    {"fusion": "tokens", "grid": 0, "conv": (4,)},
    {"fusion": "parallel", "modalities": ("audio", "image"), "image_steps": True},
    {"fusion": "parallel", "modalities": ("image",), "image_steps": True},
    {"fusion": "parallel", "modalities": ("image", "series"), "missing": ("series",)},
    {"fusion": "init", "modalities": ("audio", "series"), "missing": ("audio",)},
    {"fusion": "init", "modalities": ("image", "text"), "image_steps": True},
    *({"problem_type": problem_type} for problem_type in PROBLEM_TYPES if problem_type != "steps"),
]  # fmt: skip


def name(mode: dict) -> str:
    return "-".join(
        "+".join(value) if isinstance(value, tuple) and value and isinstance(value[0], str)
        else f"{key}{value}" if not isinstance(value, str) else value
        for key, value in mode.items() if value != ()
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=name)
def test_every_mode_has_outputs_gradients_and_ignores_padding(mode):
    model = config(**mode)
    rows = Rows(model)
    batch = rows.batch()
    network = build(model)
    logits = network(batch)
    assert logits.shape[-1] == model.outputs
    goal = task(model.problem_type)
    assert goal.predict(logits).shape == batch["label"].shape
    goal.loss(logits, batch["label"]).backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        # W_hh is unused only in a sequence of one step; exact cancellation does not occur.
        idle = parameter.startswith("head.rnn.weight_hh") and model.fusion == "concat"
        idle |= "networks." in parameter and "head.rnn.weight_hh" in parameter and not model.stream
        assert bool(value.grad.any()) is not idle, parameter
    network.eval()
    together = network(batch)
    for row in (0, 1, 4):
        alone = network(rows.batch(row))[0]
        other = together[row][: len(alone)] if model.problem_type == "steps" else together[row]
        # float32 sums of at most 400 terms in another order
        torch.testing.assert_close(alone, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("fusion", ["concat", "tokens", "parallel", "init"])
def test_the_parts_compose_to_forward(fusion, cell):
    model = config(fusion=fusion, cell=cell, missing=("text",))
    network = build(model).eval()
    batch = Rows(model).batch()
    features = network.encode(batch)
    x, lengths, state = network.sequence(features, batch)
    states = network.states(batch)
    assert states.shape == (*x.shape[:2], model.hidden)
    assert len(network.step_names(batch)) == x.shape[1]
    assert (state is not None) == (fusion == "init")
    assert isinstance(state, tuple) == (fusion == "init" and cell == "lstm")
    if isinstance(state, tuple):
        h, c = state
        assert h.any()
        assert not c.any()
    if lengths is not None:
        beyond = torch.arange(x.shape[1]) >= lengths[:, None]
        assert beyond.any()
        assert (states[beyond] == 0).all()
        assert (states[~beyond] != 0).any(-1).all()
    fused, *alone = network.parts(features, batch)
    torch.testing.assert_close(network.answer(network.final(states, lengths)), fused)
    assert list(network.readouts) == [*model.modalities, "text_ngrams"]
    torch.testing.assert_close(fused + sum(alone) / len(alone), network(batch))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("fusion", STATIC)
def test_bfloat16_is_close(fusion, cell):
    model = config(fusion=fusion, cell=cell, missing=("text",), image_steps=True)
    network, batch = build(model), Rows(model).batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(batch)
    task("binary").loss(logits.float(), batch["label"]).backward()
    assert all(value.grad.isfinite().all() for value in network.parameters())
    # logits of about 1 after about ten layers, each rounded to 8 bits
    torch.testing.assert_close(logits.float(), network(batch), atol=10 * 2**-8, rtol=0)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_every_step_is_predicted_from_its_state(cell):
    model = config(stream=True, problem_type="steps", cell=cell)
    network, batch = build(model), Rows(model).batch()
    fused, *alone = network(batch, parts=True)
    torch.testing.assert_close(network.answer(network.states(batch)), fused)
    torch.testing.assert_close(fused + sum(alone) / len(alone), network(batch))
    assert network.step_names(batch) == [f"step {step}" for step in (1, 2, 3)]


def test_steps_have_names():
    model = config(modalities=("image", "text"), image_steps=True)
    network, batch = build(model), Rows(model).batch()
    grid = ["image 1,1", "image 1,2", "image 2,1", "image 2,2"]
    assert network.step_names(batch) == [*grid, "text", *(f"{each} × text" for each in grid)]
    concat = build(replace(model, fusion="concat"))
    assert concat.step_names(batch) == ["image + text"]
    length = int(batch["text_lengths"].max())
    parallel = build(replace(model, fusion="parallel"))
    assert parallel.step_names(batch) == [f"text {step}" for step in range(1, length + 1)]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_recurrent_weights_start_orthogonal(cell):
    found = 0
    for parameter, weight in build(config(cell=cell)).named_parameters():
        if "weight_hh" in parameter:
            for gate in weight.split(weight.shape[1]):
                torch.testing.assert_close(gate @ gate.t(), torch.eye(len(gate)))
                found += 1
    assert found == 4 * {"rnn": 1, "lstm": 4, "gru": 3}[cell]  # audio, series, text and the fusion


@pytest.mark.parametrize("cell", SOME_CELLS)
@pytest.mark.parametrize("mode", STATIC)
@pytest.mark.parametrize("learned", [True, False])
def test_data_of_missing_modalities_are_not_read(mode, learned, cell):
    model = config(fusion=mode, cell=cell, missing=ALL if learned else ())
    network = build(model).eval()
    batch = Rows(replace(model, missing=())).batch()
    present = {f"{each}_present": torch.ones(6, dtype=torch.bool) for each in ALL}
    torch.testing.assert_close(network(batch | present), network(batch))
    for lacking in ALL:
        hidden = torch.tensor([True, False, True, True, False, True])
        marked = batch | {f"{lacking}_present": hidden}
        expected = network(marked)
        other = Rows(replace(model, missing=()), seed=1).batch()
        keys = [key for key in other if key.startswith(lacking)]
        if lacking == "image":
            changed = marked | {
                "image_frames": torch.cat([batch["image_frames"], other["image_frames"]])
            }
            changed["image"] = torch.where(hidden, batch["image"], batch["image"] + 6)
        else:
            changed = marked | {key: batch[key].clone() for key in keys}
            changed[lacking][~hidden] = 0
            changed[f"{lacking}_lengths"][~hidden] = 1
        torch.testing.assert_close(network(changed), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(network(batch)[~hidden], expected[~hidden])


def test_modality_dropout_keeps_at_least_one_modality():
    rate = 0.6
    model = config(modality_dropout=rate, missing=("text",))
    rows = Rows(model, count=300)
    batch = rows.batch()
    seen: list[torch.Tensor] = []
    network = build(model)
    fill = network.fusion.fill

    def watch(name, value, present):
        seen.append(present)
        return fill(name, value, present)

    network.fusion.fill = watch
    network(batch)
    kept = torch.stack(seen)
    assert kept.any(0).all()
    had = torch.stack([batch.get("text_present", torch.ones(300)).bool() if each == "text"
                       else torch.ones(300, dtype=torch.bool) for each in ALL])  # fmt: skip
    assert not (kept & ~had).any()
    # A modality stays with probability 0.4, or if all would be dropped: in 0.6⁴ = 0.13 of rows
    # (0.6³ of those without text). The mean of 300 × 3 draws is within 0.08 of it.
    assert abs(float(kept[:3].float().mean()) - (0.4 + 0.13 * 2 / 3 + 0.22 / 3)) < 0.08
    seen.clear()
    network.eval()(batch)
    assert [each is None for each in seen] == [True, True, True, False]
    torch.manual_seed(1)
    first = network.train()(batch)
    torch.manual_seed(1)
    assert network(batch).equal(first)
    late = build(replace(model, fusion="late"))
    assert not late(batch).equal(late(batch))
    assert late.eval()(batch).equal(late(batch))


class Squares(nn.Module):
    """A custom encoder with a number of features that differs from the network's width."""

    features = 5

    def __init__(self, model):
        super().__init__()
        self.map = nn.Linear(3, 5)

    def forward(self, batch):
        return self.map(batch["image_frames"][batch["image"]].float().square().mean((2, 3)) / 65025)


class Words(nn.Module):
    """A custom encoder that returns steps."""

    features = 16

    def __init__(self, model):
        super().__init__()
        self.embed = nn.Embedding(model.vocabulary, 16)

    def lengths(self, batch):
        return batch["text_lengths"]

    def forward(self, batch):
        return self.embed(batch["text"])


@pytest.fixture
def registered(monkeypatch):
    from fastrnn.fusion.models import encoders

    monkeypatch.setattr(encoders, "ENCODERS", dict(encoders.ENCODERS))
    encoders.register_encoder("squares", Squares)
    encoders.register_encoder("words", Words)
    return encoders


@pytest.mark.parametrize("fusion", STATIC)
def test_custom_encoders(fusion, registered):
    model = config(fusion=fusion, encoders=(("image", "squares"), ("text", "words")))
    rows = Rows(model)
    network = build(model)
    task("binary").loss(network(rows.batch()), rows.batch()["label"]).backward()
    own = [value for name, value in network.named_parameters() if "map" in name or "embed" in name]
    assert len(own) == 3
    assert all(value.grad.any() for value in own)
    torch.testing.assert_close(network(rows.batch())[2], network(rows.batch(2))[0])
    if fusion != "late":
        x, _, _ = network.sequence(network.encode(rows.batch()), rows.batch())
        assert len(network.step_names(rows.batch())) == x.shape[1]


def test_invalid_encoders(registered):
    with pytest.raises(ConfigError, match="audio, image, series, squares, tabular, text, words"):
        build(config(encoders=(("image", "vit"),)))
    with pytest.raises(ConfigError, match="not read: image"):
        build(config(modalities=("text",), encoders=(("image", "squares"),)))
    with pytest.raises(ConfigError, match="not read: image"):
        build(config(modalities=("audio", "text"), fusion="late", encoders=(("image", "squares"),)))
    with pytest.raises(ConfigError, match="reads text; image needs another"):
        build(config(encoders=(("image", "text"),)))
    with pytest.raises(ConfigError, match="image more than once"):
        build(config(encoders=(("image", "image"), ("image", "squares"))))
    with pytest.raises(ConfigError, match="built-in"):
        registered.register_encoder("image", Squares)
    registered.register_encoder("mute", lambda model: nn.Identity())
    with pytest.raises(ConfigError, match="how many features"):
        build(config(encoders=(("image", "mute"),)))
    model = config(fusion="parallel", encoders=(("text", "squares"),))
    with pytest.raises(ConfigError, match=r"return \[B, L, D\]"):
        build(model)(Rows(model).batch())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fusion": "parallel", "modalities": ("image",)}, "set image_steps"),
        ({"fusion": "init", "modalities": ("text",)}, "needs at least two modalities"),
        ({"variables": 0}, "ModelConfig.variables"),
        ({"strides": ()}, "give strides"),
        ({"conv": (4,) * 4}, "too small for 4 stages"),
        ({"conv": (4,) * 3, "grid": 0}, "too small for 3 stages"),
        ({"stream": True, "image_steps": True}, "are sequences"),
    ],
)
def test_invalid_networks(options, text):
    with pytest.raises(ConfigError, match=text):
        build(config(**options))


@pytest.mark.slow
@pytest.mark.parametrize("cell", SOME_CELLS)
def test_training_lowers_the_loss_of_every_kind(cell):
    for problem_type in PROBLEM_TYPES:
        model = config(problem_type=problem_type, cell=cell, stream=problem_type == "steps")
        network, batch = build(model), Rows(model).batch()
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        losses = []
        for _ in range(20):
            loss = task(problem_type).loss(network(batch), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] / 2, problem_type
