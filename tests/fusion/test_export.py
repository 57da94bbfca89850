"""ONNX files match their networks, at sizes they were not traced with."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fastrnn.fusion import ConfigError, DataConfig, Processor, build
from fastrnn.fusion import export as exporting
from fastrnn.fusion.config.presets import PRESETS
from fastrnn.fusion.export import run, to_inputs, to_onnx, tolerance
from fastrnn.fusion.models.text import NgramReadout
from fastrnn.fusion.tasks import task_of

from .synthetic import Rows, config

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def of(model) -> Processor:
    task = task_of(model.problem_type)(("no", "七"))
    return Processor(DataConfig(), task, model.modalities, model.stream)


def with_ngrams(network):
    """Give the readouts of n-grams weights; they begin at 0."""
    for module in network.modules():
        if isinstance(module, NgramReadout):
            nn.init.normal_(module.weight)
    return network


ARTICLE = dict(PRESETS["article"].model) | {"conv": (4,), "modalities": ("image", "text")}
MODES = {
    "tokens": ({}, {"RNN": 4}),
    "tokens-missing": ({"missing": ("image", "text")}, {"RNN": 4}),
    "tokens-grid": ({"image_steps": True, "modalities": ("image", "text")}, {"RNN": 2}),
    "concat-lstm": (
        {"fusion": "concat", "cell": "lstm", "problem_type": "multiclass"},
        {"LSTM": 4},
    ),
    "parallel-gru": ({"fusion": "parallel", "cell": "gru", "missing": ("text",)}, {"GRU": 3}),
    "init-lstm": ({"fusion": "init", "cell": "lstm", "problem_type": "regression"}, {"LSTM": 3}),
    "late": ({"fusion": "late", "problem_type": "multilabel"}, {"RNN": 7}),
    "none": ({"fusion": "init", "cell": "none"}, {"RNN": 2}),
    "aligned": ({"stream": True, "problem_type": "steps"}, {"RNN": 2}),
    "aligned-lstm": ({"stream": True, "problem_type": "steps", "cell": "lstm"}, {"LSTM": 2}),
    "article-lstm": (ARTICLE | {"cell": "lstm"}, {"LSTM": 2}),
    "ngrams": ({"ngrams": 50, "missing": ("text",), "problem_type": "multiclass"}, {"RNN": 4}),
    "late-ngrams": ({"fusion": "late", "ngrams": 50, "modalities": ("text",)}, {"RNN": 2}),
    "aligned-ngrams": ({"stream": True, "problem_type": "steps", "ngrams": 50}, {"RNN": 2}),
    "uneven": ({"image_size": 22, "grid": 2, "modalities": ("image", "text")}, {"RNN": 2}),
}


ALL_MODES = MODES | {
    f"{mode}-{cell}": (options | {"cell": cell}, {cell.upper(): sum(layers.values())})
    for mode, (options, layers) in MODES.items()
    for cell in ("rnn", "lstm", "gru")
    if "cell" not in options
}


@pytest.mark.parametrize(
    "mode",
    [*MODES, *(pytest.param(m, marks=pytest.mark.exhaustive) for m in ALL_MODES if m not in MODES)],
)
def test_file_matches_the_network(mode, tmp_path):
    options, layers = ALL_MODES[mode]
    model = config(**options)
    network = with_ngrams(build(model).eval())
    rows = Rows(model, count=7, seed=3)
    some = rows.batch(0, 1, 2)
    del some["label"]
    path = to_onnx(network, of(model), some, tmp_path / "new" / "model.onnx")
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]
    graph = onnx.load(str(path)).graph
    kinds = [node.op_type for node in graph.node]
    assert {kind: kinds.count(kind) for kind in ("RNN", "LSTM", "GRU") if kind in kinds} == layers
    session = onnxruntime.InferenceSession(str(path))
    batch = rows.batch()
    answer = run(session, to_inputs(network, batch))
    expected = network(batch)
    if model.problem_type == "steps":
        expected, answer = expected[batch["steps"]], {"logits": answer["logits"][batch["steps"]]}
    bound = tolerance(network, batch)
    assert bound < 1e-3
    torch.testing.assert_close(answer["logits"], expected, atol=bound, rtol=0)


def test_metadata_and_input_shapes(tmp_path):
    model = config(modalities=("image", "text"), missing=("text",), ngrams=9)
    path = to_onnx(build(model), of(model), Rows(model).batch(), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["labels"]) == ["no", "七"]
    assert facts["problem_type"] == "binary"
    assert facts["fastrnn"]
    assert json.loads(facts["data"])["sample_rate"] == 16_000
    shapes = {each.name: each.shape for each in session.get_inputs()}
    assert shapes == {
        "image": ["rows", 3, 8, 8],
        "text": ["rows", "text_steps"],
        "text_lengths": ["rows"],
        "text_ngrams": ["rows", "text_ngrams"],
        "text_ngram_weights": ["rows", "text_ngrams"],
        "text_present": ["rows"],
    }
    answer = run(session, to_inputs(build(model), Rows(model).batch()))
    torch.testing.assert_close(answer["probabilities"], answer["logits"][:, 0].sigmoid())


class Stubborn(nn.Module):
    """An encoder that cannot be traced: its output depends on the size of the traced batch."""

    features = 16

    def __init__(self, model):
        super().__init__()
        self.embed = nn.Embedding(model.vocabulary, 16)

    def forward(self, batch):
        return self.embed(batch["text"])[:, 0] * len(batch["text"].tolist())


class Inexpressible(Stubborn):
    def forward(self, batch):
        return torch.special.bessel_j0(self.embed(batch["text"])[:, 0])


@pytest.mark.parametrize(
    ("encoder", "text"),
    [(Stubborn, "differs from the network"), (Inexpressible, "check your own encoders")],
)
def test_failed_export_leaves_no_file(encoder, text, tmp_path, monkeypatch):
    from fastrnn.fusion.models import encoders

    monkeypatch.setitem(encoders.ENCODERS, "mine", encoder)
    model = config(modalities=("image", "text"), encoders=(("text", "mine"),))
    with pytest.raises(ConfigError, match=text):
        to_onnx(build(model), of(model), Rows(model).batch(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_onnx(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    model = config()
    with pytest.raises(ConfigError, match=r"pip install 'fastrnn\[fusion,onnx\]'"):
        to_onnx(build(model), of(model), Rows(model).batch(), tmp_path / "model.onnx")


def test_grid_pool_is_adaptive_pooling():
    x = torch.randn(2, 3, 7, 5)
    torch.testing.assert_close(exporting._GridPool(4)(x), nn.functional.adaptive_avg_pool2d(x, 4))
