"""Damaged or malicious folders of models and runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastrnn.fusion import ConfigError, checkpoint, cli, load
from fastrnn.fusion.data.splits import read_split
from fastrnn.fusion.data.text import load_tokenizer, train_tokenizer
from fastrnn.fusion.evaluation import evaluator as evaluation
from fastrnn.fusion.report.report import write_report

from .trained import trained_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return trained_run(tmp_path_factory.mktemp("whole"), "binary", baselines=False).folder


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def change(file: str, *path: str, value: object):
    """Set one value in a JSON file."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        inner = content
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        (folder / file).write_text(json.dumps(content))

    return damage


def contain(file: str, content: bytes):
    """Replace a file's content."""
    return lambda folder: (folder / file).write_bytes(content)


def pipe(file: str):
    """Replace a file by a named pipe without a writer."""

    def damage(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return damage


def cut(file: str):
    """Keep the first half of a file."""

    def damage(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return damage


def foreign_tokens(folder: Path) -> None:
    tokenizer = train_tokenizer(["other words"] * 9, 300)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())


def added_tokens(folder: Path) -> None:
    """Keep the vocabulary, but add token ids beyond it to each text."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["post_processor"] = {
        "type": "BertProcessing",
        "sep": ["[SEP]", 70_000],
        "cls": ["[CLS]", 70_001],
    }
    file.write_text(json.dumps(content))


CONFIG, PROCESSOR, TOKENIZER = "config.json", "processor_config.json", "tokenizer.json"
DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / TOKENIZER).unlink(), f"{TOKENIZER}: cannot be read"),
        (cut(TOKENIZER), f"{TOKENIZER}: damaged: not JSON"),
        (contain(TOKENIZER, b"{}"), f"{TOKENIZER}: not a tokenizer"),
        (contain(TOKENIZER, DEEP), f"{TOKENIZER}: damaged: nested too deeply"),
        (pipe(TOKENIZER), f"{TOKENIZER}: not a regular file"),
        (foreign_tokens, f"{TOKENIZER}: not this model's tokenizer"),
        (added_tokens, f"{TOKENIZER}: not this model's tokenizer"),
        (contain(CONFIG, b"{"), f"{CONFIG}: damaged: not JSON"),
        (contain(CONFIG, b"\xff"), f"{CONFIG}: damaged: not UTF-8"),
        (contain(CONFIG, b"[]"), f"{CONFIG}: the configuration must be a mapping"),
        (contain(CONFIG, DEEP), f"{CONFIG}: damaged: nested too deeply"),
        (contain(CONFIG, b"9" * 9999), f"{CONFIG}: "),
        (pipe(CONFIG), f"no {CONFIG}"),
        (lambda folder: (folder / PROCESSOR).unlink(), f"{PROCESSOR}: cannot be read"),
        (cut(PROCESSOR), f"{PROCESSOR}: damaged: not JSON"),
        (contain(PROCESSOR, b"\xff"), f"{PROCESSOR}: damaged: not UTF-8"),
        (contain(PROCESSOR, b"[]"), f"{PROCESSOR}: the configuration must be a mapping"),
        (contain(PROCESSOR, DEEP), f"{PROCESSOR}: damaged: nested too deeply"),
        (pipe(PROCESSOR), f"{PROCESSOR}: not a regular file"),
        (change(PROCESSOR, "labels", value=3), f"{PROCESSOR}: labels must be a list"),
        (change(PROCESSOR, "labels", value=["a", "b", "c"]), f"{PROCESSOR}: damaged: 3 labels"),
        (change(PROCESSOR, "problem_type", value="x"), f"{PROCESSOR}: problem_type must be one of"),
        (
            change(PROCESSOR, "problem_type", value="multiclass"),
            "problem_type is binary, but multi",
        ),
        (change(PROCESSOR, "modalities", value=["text"]), r"modalities is .*, but \('text',\) in"),
        (change(PROCESSOR, "stream", value=True), "model.stream is False, but True in processor"),
        (change(PROCESSOR, "series", value=[[0, 1, 2]]), f"{PROCESSOR}: series"),
        (change(CONFIG, "model", "outputs", value=2), f"{CONFIG}: damaged: model.outputs is 2"),
        (change(CONFIG, "model", "width", value=-1), f"{CONFIG}: model.width must be at least 1"),
        (
            change(CONFIG, "model", "width", value=10**9),
            f"{CONFIG}: model.width must be .* at most",
        ),
        (
            change(PROCESSOR, "data", "image_size", value="64"),
            f"{PROCESSOR}: data.image_size must be an integer",
        ),
        (
            change(PROCESSOR, "data", "image_size", value=10**6),
            f"{PROCESSOR}: data.image_size .* most",
        ),
        (
            change(PROCESSOR, "data", "image_size", value=16),
            f"model.image_size is 8, but 16 in {PROCESSOR}",
        ),
        (change(PROCESSOR, "data", "mels", value=13), f"model.mels is 12, but 13 in {PROCESSOR}"),
        (change(CONFIG, "model", "encoders", value=[["image", "text"]]), "'text' reads text"),
        (cut("model.safetensors"), "model.safetensors: not this network's weights, or damaged"),
    ],
)
def test_damaged_file_is_named(run, damage, said):
    damage(run)
    with pytest.raises(ConfigError, match=said) as caught:
        load(run)
    assert str(run) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 65_536},
        {"hidden": 65_536, "cell": "lstm"},
        {"conv": [65_536] * 2},
        {"fusion": "late"},
    ],
)
def test_shapes_are_compared_before_building(run, monkeypatch, options):
    for name, value in options.items():
        change(CONFIG, "model", name, value=value)(run)
    change("models/fusion/config.json", "hidden", value=65_536)(run)
    monkeypatch.setattr(checkpoint, "build", lambda config: pytest.fail("it was built"))
    with pytest.raises(ConfigError, match=r"model\.safetensors: .* has the shape .* describes"):
        load(run)
    with pytest.raises(ConfigError, match=r"fusion/model\.safetensors: .* has the shape"):
        checkpoint.load_network(run, "fusion")


@pytest.mark.slow
def test_loading_does_not_import_the_compiler(run):
    """Comparing shapes must not take seconds."""
    program = (
        "import sys; from fastrnn.fusion.config.schema import ModelConfig; "
        "from fastrnn.fusion.models.network import blueprint; "
        "before = 'torch._dynamo.utils' in sys.modules; "
        "blueprint(ModelConfig(('audio', 'image', 'text'), vocabulary=9)); "
        "assert before or 'torch._dynamo.utils' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_tensor_with_wrong_shape_is_named(run):
    file = run / "model.safetensors"
    weights = load_file(file)
    name = "head.readout.weight"
    assert list(weights[name].shape) == [1, 24]
    save_file(weights | {name: torch.zeros(1, 23)}, file)
    with pytest.raises(
        ConfigError,
        match=rf"{name} has the shape \[1, 23\], but config\.json describes \[1, 24\]",
    ):
        load(run)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (contain("split.json", b"[]"), r"split\.json: damaged: the split must be a mapping"),
        (change("split.json", "test", value=["1"]), r"split\.test\[0\] must be an integer"),
        (change("split.json", "test", value=[-1]), r"split\.test\[0\] must be at least 0"),
        (change("split.json", "test", value=[99] * 4), "refers to row 99"),
        (contain("models/fusion/config.json", b"[]"), r"fusion/config\.json: the configuration"),
    ],
)
def test_damaged_run_is_not_evaluated(run, damage, said, capsys):
    damage(run)
    with pytest.raises(ConfigError, match=said):
        evaluation.evaluate_run(run)
    assert cli.main(["evaluate", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "said"), [(b"{}\n", "not a metrics record"), (b"{\n", "not JSON")]
)
def test_damaged_metrics_are_not_reported(run, content, said, capsys):
    """The evaluation itself needs no metrics."""
    contain("metrics.jsonl", content)(run)
    with pytest.raises(ConfigError, match=rf"metrics\.jsonl, line 1: damaged: {said}"):
        write_report(run)
    assert cli.main(["evaluate", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (run / "evaluation.json").is_file()


def test_damaged_evaluation_is_not_reported(run):
    (run / "evaluation.json").write_text("{")
    with pytest.raises(ConfigError, match=r"evaluation\.json: damaged: not JSON"):
        write_report(run)


@pytest.mark.parametrize(
    ("name", "content"), [("evaluation.json", "{}"), ("explanation.json", "[]")]
)
def test_results_of_another_version_are_not_reported(run, name, content):
    (run / name).write_text(content)
    with pytest.raises(ConfigError, match="of another version; delete them"):
        write_report(run)


def test_intact_files_are_read(run):
    parts = read_split(run / "split.json")
    assert sorted(row for rows in parts.values() for row in rows) == list(range(40))
    assert load_tokenizer(run / TOKENIZER).get_vocab_size() == load(run).processor.vocabulary
