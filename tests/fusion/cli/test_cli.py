"""The commands: options, the run's folder, prompts, errors."""

from __future__ import annotations

import json
import os

import pytest
import typer
import yaml

from fastrnn.fusion import ConfigError, cli
from fastrnn.fusion.cli import fit as fitting
from fastrnn.fusion.cli.config_flags import COLUMNS
from fastrnn.fusion.config.options import OPTIONS
from fastrnn.fusion.data import manifest
from fastrnn.fusion.training import run as experiment

TINY = ["--width", "16", "--hidden", "16", "--image-size", "8", "--conv", "4,8", "--grid", "2"]
TINY += ["--batch-size", "8", "--mels", "12", "--vocabulary", "256"]


def fit(path, out, *more):
    return cli.main(["fit", str(path), "--output-dir", str(out), "--epochs", "1", *TINY, *more])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def scores(folder):
    return [
        {k: v for k, v in line.items() if k != "seconds"}
        for line in lines(folder / "metrics.jsonl")
    ]


def commands():
    return typer.main.get_command(cli.app).commands


def test_there_are_five_commands():
    assert sorted(commands()) == ["evaluate", "explain", "export", "fit", "predict"]


@pytest.mark.parametrize("name", ["evaluate", "explain", "export", "fit", "predict"])
def test_every_command_and_flag_is_explained(name, capsys):
    command = commands()[name]
    assert command.help
    for each in command.params:
        assert each.help or each.name == "help", each.name
    assert cli.main([name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "expected"), [(None, "64"), ("1024", "1024")])
def test_onednn_keeps_few_kernels_unless_told(monkeypatch, given, expected):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, given or "")  # so that it is restored
    if given is None:
        monkeypatch.delenv(name)
    assert cli.main(["--help"]) == 0
    assert os.environ[name] == expected


def test_usage(capsys):
    assert cli.main(["--help"]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "help_of"),
    [
        ([], ""),
        (["nonsense"], ""),
        (["--nonsense"], ""),
        (["fit", "--nonsense"], " fit"),
        (["fit", "t.csv", "another.csv"], " fit"),
        (["fit", "t.csv", "--epochs"], ""),
        (["predict", "run"], " predict"),
    ],
)
def test_usage_error_is_one_line(arguments, help_of, capsys):
    assert refusal(arguments, capsys).endswith(f"; see fastrnn{help_of} --help")


def refusal(arguments, capsys):
    """Run a command that must fail with status 2 and one line; return the line."""
    capsys.readouterr()
    assert cli.main(arguments) == 2, arguments
    said = capsys.readouterr().err
    assert said.startswith("error: "), arguments
    assert said.count("\n") == 1, arguments
    return said.rstrip("\n")


HOSTILE = ["-1", "nan", "9" * 30, "", "\udcff"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "fit",
        "predict",
        *(pytest.param(x, marks=pytest.mark.exhaustive) for x in ("evaluate", "explain", "export")),
    ],
)
def test_hostile_option_values_raise_no_traceback(name, tmp_path, monkeypatch, capsys):
    """No input exists here, so a command also fails in one line if the option accepts the value."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    given = {"fit": ["gone.csv"], "predict": ["run", "gone.csv"]}
    for each in commands()[name].params:
        if each.name == "help" or getattr(each, "is_flag", False):
            continue
        for value in HOSTILE:
            if each.param_type_name == "option":
                refusal([name, *given.get(name, ["run"]), f"{each.opts[0]}={value}"], capsys)
            else:
                refusal([name, "--", value, "gone.csv"][: 4 if name == "predict" else 3], capsys)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hop-ms=0"], "hop_ms must be greater than 0"),
        (["--window-ms=0"], "window_ms must be greater than 0"),
        (["--sample-rate=1"], "window_ms is 0 samples at 1 Hz"),
        (["--image-channels=2"], "image_channels must be one of 1, 3"),
        (["--conv=4,0"], "conv[1] must be at least 1"),
        (["--strides=2.5"], "strides must be a list such as 2,2; got '2.5'"),
        (["--learning-rate=0"], "learning_rate must be greater than 0"),
        (
            ["--batch-size=4", "--gradient-accumulation-steps=3"],
            "must be a multiple of gradient_accumulation_steps 3",
        ),
        (["--output-dir="], "the path is empty; give a path"),
        (["--root=\udcff"], "is not a UTF-8 path"),
        (["--num-workers=9999"], "1024"),
        (["--epochs=2.5"], "--epochs"),
    ],
)
def test_invalid_option_values(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said in refusal(["fit", "gone.csv", *arguments], capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--modality-dropout=1"], "modality_dropout must be less than 1"),
        (["--freeze=nothing"], "freeze: unknown part 'nothing'; the parts are audio"),
        (["--freeze=audio,fusion,head,image,text"], "no parameter is left to train"),
        (["--encoders=image=nope"], "no encoder 'nope' for image"),
        (["--encoders=image=text"], "reads text; image needs another"),
        (["--fusion=late", "--encoders=series=series"], "for modalities that are not read: series"),
        (["--fusion=aligned"], "rows are not sequences"),
        (["--conv=4,4,4,4,4"], "too small for 5 stages"),
        (["--strides="], "audio needs a convolution"),
        (["--width=65536", "--hidden=65536"], "make width, hidden, conv or grid smaller"),
        (["--precision=fp16"], "fp16 needs a CUDA GPU"),
        (["--init-from=gone"], "give a run's folder"),
        (["--class-weight=yes=2,maybe=3"], "unknown label 'maybe'; the labels are no, yes"),
        (["--class-weight=yes=2", "--balance"], "balance and class_weight both"),
        (["--schedule=linear", "--warmup-steps=999"], "the warm-up takes 999 steps"),
        (["--folds=21"], "20 independent sets of rows cannot be split into 21 folds"),
    ],
)
def test_options_are_checked_before_files_are_decoded(
    rows, save, tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    path = save(rows)
    for each in rows:  # reading any of these files would be an error
        (tmp_path / each["image"]).write_bytes(b"")
        (tmp_path / each["audio"]).write_bytes(b"")
    assert said in refusal(["fit", str(path), "--output-dir", "run", *TINY, *arguments], capsys)
    assert not (tmp_path / "run").exists()


def test_frozen_part_must_come_from_the_other_run(rows, save, tmp_path, capsys):
    """The other run's configuration is checked before a file is decoded."""
    both = [{name: row[name] for name in ("text", "audio", "label")} for row in rows]
    alone = [{name: row[name] for name in ("text", "label")} for row in rows]
    assert fit(save(alone, "csv"), tmp_path / "first", "--no-baselines") == 0
    for each in rows:
        (tmp_path / each["audio"]).write_bytes(b"")
    more = ["--init-from", str(tmp_path / "first"), "--freeze", "audio"]
    said = refusal(
        ["fit", str(save(both)), "--output-dir", str(tmp_path / "b"), *TINY, *more], capsys
    )
    assert "no weights of 'audio' come from the other run" in said


def test_fit(rows, save, tmp_path, capsys):
    out = tmp_path / "run"
    rows = [{name: row[name] for name in ("image", "text", "label")} for row in rows]
    assert fit(save(rows, "csv"), out, "--epochs", "2") == 0
    said = capsys.readouterr().out
    for text in (
        "20 rows",
        "label: label, by its name",
        "labels: binary",
        "16 train, 2 val, 2 test",
        "epoch 2/2",
        "accuracy",
    ):
        assert text in said
    models = ["fusion", "text only", "image only", "late", "concat", "no recurrence"]
    found = lines(out / "metrics.jsonl")
    assert list(dict.fromkeys(line["model"] for line in found)) == models
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    echoed = yaml.safe_load((out / "config.yaml").read_text())
    assert echoed["conv"] == [4, 8]
    assert (echoed["epochs"], echoed["seed"], echoed["cell"]) == (2, 0, "rnn")


@pytest.mark.slow
def test_saved_options_reproduce_the_fit(rows, save, tmp_path):
    assert fit(save(rows), tmp_path / "a", "--seed", "3", "--no-baselines") == 0
    arguments = [
        "--config",
        str(tmp_path / "a" / "config.yaml"),
        "--output-dir",
        str(tmp_path / "b"),
    ]
    assert cli.main(["fit", *arguments]) == 0
    assert scores(tmp_path / "a") == scores(tmp_path / "b")
    again, first = ((tmp_path / name / "config.yaml").read_text() for name in "ba")
    assert again == first


@pytest.mark.parametrize("written", ["tensorboard", "[tensorboard, wandb]", "[]"])
def test_trackers_in_a_file_and_in_flags(written, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(experiment, "fit", lambda *a, **k: given.append(a[2]) or _stop())
    monkeypatch.setattr(manifest, "read_manifest", lambda *a, **k: None)
    monkeypatch.setattr(fitting, "confirm", lambda *a: None)
    file = tmp_path / "options.yaml"
    file.write_text(f"report_to: {written}\n")
    names = [each for each in ("tensorboard", "wandb") if each in written]
    flags = [part for name in names for part in ("--report-to", name)]
    for arguments in (flags, ["--config", str(file)]):
        assert cli.main(["fit", "t.csv", "--output-dir", str(tmp_path / "r"), *arguments]) == 2
    assert [each.report_to for each in given] == [tuple(names)] * 2


def test_flags_override_the_file_and_the_file_overrides_the_preset(monkeypatch, tmp_path):
    """`fit` is replaced by a stub that records its arguments."""
    given = {}
    monkeypatch.setattr(experiment, "fit", lambda *a, **k: given.update(args=a) or _stop())
    monkeypatch.setattr(manifest, "read_manifest", lambda *a, **k: None)
    monkeypatch.setattr(fitting, "confirm", lambda *a: None)
    file = tmp_path / "options.yaml"
    file.write_text("cell: gru\nepochs: 3\nbatch_size: 16\npreset: article\n")
    for preset in ([], ["--preset", "article"]):
        for order in (1, -1):
            parts = [["--config", str(file)], preset, ["--epochs", "4"]][::order]
            given_flags = [flag for part in parts for flag in part]
            assert (
                cli.main(["fit", "t.csv", "--output-dir", str(tmp_path / "r"), *given_flags]) == 2
            )
            config = given["args"][2]
            assert (config.train.epochs, config.train.batch_size) == (4, 16)
            assert config.model["cell"] == "gru"  # the article preset has another cell
            assert config.data.image_size == 224
            assert (config.model["fusion"], config.model["grid"]) == ("concat", 0)
    assert not (tmp_path / "r").exists()


def _stop():
    raise ConfigError("enough")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epocs: 3\n", "did you mean epochs?"),
        ("gradient_accumulation_steps: 2.5\n", "gradient-accumulation-steps"),
        ("fusion: mixed\n", "fusion"),
        ("config: other.yaml\n", "'config' is not an option"),
    ],
)
def test_invalid_options_file(rows, save, tmp_path, capsys, text, said):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    assert fit(save(rows), tmp_path / "run", "--config", str(file)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--check", "--on-bad-row=skip"])
def test_files_are_checked_before_training(rows, save, tmp_path, capsys, flag):
    for number, row in enumerate(rows):
        row["image"] = f"gone-{number}.png"
    said = refusal(
        ["fit", str(save(rows)), "--output-dir", str(tmp_path / "run"), *TINY, flag], capsys
    )
    assert "line " in said
    assert "gone-" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_bad_row_is_reported_without_a_traceback(rows, save, tmp_path, capsys):
    """Without --check it is found in training, which continues when the file is there."""
    run, path = tmp_path / "run", save(rows)
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").unlink()
    assert fit(path, run, "--no-baselines") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "line 3" in said
    assert "2.png" in said
    assert "resume with: fastrnn fit --resume" in said
    (tmp_path / "2.png").write_bytes(content)
    assert cli.main(["fit", "--resume", str(run)]) == 0
    assert fit(path, tmp_path / "other", "--no-baselines") == 0
    assert scores(run) == scores(tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit"], "give a MANIFEST"),
        (["fit", "gone.csv"], "gone.csv"),
        (["fit", "--resume", "gone"], "gone"),
        (["fit", "a.csv", "--resume", "gone"], "--resume"),
        (["fit", "--resume", "gone", "--epochs", "3"], "--epochs"),
        (["evaluate", "gone"], "give a run's folder"),
        (["predict", "gone", "a.csv"], "give a run's folder"),
        (["explain", "gone"], "give a run's folder"),
        (["export", "gone"], "give a run's folder"),
    ],
)
def test_missing_arguments_and_files(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_column_and_field_options_are_disjoint():
    assert not set(COLUMNS) & set(OPTIONS)
