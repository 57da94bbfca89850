"""The commands and their files: existing runs, interruption, full disks and unwritable outputs."""

from __future__ import annotations

import errno

import pytest

from fastrnn.fusion import cli
from fastrnn.fusion.cli import common
from fastrnn.fusion.training import loaders
from fastrnn.fusion.training import run as experiment
from fastrnn.fusion.training import state as resume
from tests.fusion.cli.test_cli import TINY, fit, lines, refusal

from ..conftest import no_space


def test_predictions_do_not_overwrite_the_table(rows, save, tmp_path, capsys):
    table = [{name: row[name] for name in ("text", "label")} for row in rows]
    path, run = save(table), tmp_path / "run"
    assert fit(path, run, "--no-baselines") == 0
    before = path.read_bytes()
    said = refusal(["predict", str(run), str(path), "--output", str(path)], capsys)
    assert "the predictions would overwrite the table" in said
    assert path.read_bytes() == before


def test_several_processes_need_a_common_folder(rows, save, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["fit", str(save(rows)), *TINY]) == 2
    assert "--output-dir FOLDER" in capsys.readouterr().err


def test_new_folder_is_unused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("runs/a", "runs/a-2", "runs/a-3"):
        folder = common.new_folder("a")
        assert folder.as_posix() == expected
        folder.mkdir(parents=True)


def test_existing_run_is_not_overwritten(rows, save, tmp_path, capsys):
    path = save(rows)
    out = tmp_path / "run"
    assert fit(path, out, "--no-baselines") == 0
    before = {each: each.read_bytes() for each in out.rglob("*") if each.is_file()}
    assert fit(path, out) == 2
    assert "choose another folder with --output-dir" in capsys.readouterr().err
    assert before == {each: each.read_bytes() for each in out.rglob("*") if each.is_file()}


def one_line(said):
    assert said.count("\n") == 1, said
    return said


def interrupted(monkeypatch, number):
    """Raise KeyboardInterrupt right after the `number`th save of a state."""
    save, count = resume.save, 0

    def saving(folder, state):
        nonlocal count
        count += 1
        save(folder, state)
        if count == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(resume, "save", saving)


def test_ctrl_c_prints_how_to_resume(rows, save, tmp_path, monkeypatch, capsys):
    path, run = save(rows), tmp_path / "a run"
    with monkeypatch.context() as patch:
        interrupted(patch, 1)
        assert fit(path, run, "--no-baselines") == 130
    said = one_line(capsys.readouterr().err)
    assert said == f"{run}: the run was interrupted; resume it with: fastrnn fit --resume '{run}'\n"
    for command in (["evaluate"], ["predict", path], ["explain"], ["export"]):
        name, *more = map(str, command)
        assert (
            cli.main([name, str(run), *more, *(["-o", str(tmp_path / "a")] if more else [])]) == 2
        )
        assert one_line(capsys.readouterr().err) == f"error: {said}"
    assert cli.main(["fit", "--resume", str(run)]) == 0
    assert len(lines(run / "metrics.jsonl")) == 3


@pytest.mark.parametrize("given", [[], ["--num-workers", "0"]])
def test_resume_decodes_with_the_given_workers(rows, save, tmp_path, monkeypatch, given):
    """Without --num-workers a resumed run uses those of its fit. The results are the same."""
    run, loader, used = tmp_path / "run", loaders.BatchLoader, []

    def loading(dataset, batches, num_workers, **options):
        used.append(num_workers)
        return loader(dataset, batches, 0, **options)

    monkeypatch.setattr(loaders, "BatchLoader", loading)
    with monkeypatch.context() as patch:
        interrupted(patch, 1)
        assert fit(save(rows), run, "--no-baselines", "--num-workers", "1") == 130
    assert cli.main(["fit", "--resume", str(run), *given]) == 0
    # One loader for each split, in the fit and after it is resumed.
    assert used == [1] * 3 + [0 if given else 1] * 3


def test_run_stopped_between_models_predicts_with_a_note(rows, save, tmp_path, monkeypatch, capsys):
    path, run, out = save(rows), tmp_path / "run", tmp_path / "answers.jsonl"
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        assert fit(path, run) == 130
    capsys.readouterr()
    assert cli.main(["predict", str(run), str(path), "-o", str(out)]) == 0
    assert "note: " in capsys.readouterr().err
    assert len(lines(out)) == 20


def test_ctrl_c_before_training_leaves_no_files(rows, save, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "prepare", stop)
    assert fit(save(rows), tmp_path / "run") == 130
    said = one_line(capsys.readouterr().err)
    assert said.endswith("the run was interrupted before training began\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_full_disk_is_reported_in_one_line(rows, save, tmp_path, capsys):
    path, run = save(rows), tmp_path / "run"
    with no_space(20_000):
        assert fit(path, run, "--no-baselines") == 2
    said = one_line(capsys.readouterr().err)
    assert said.startswith(f"error: {run}/")
    assert f"File too large; fix that, then resume it with: fastrnn fit --resume {run}" in said
    assert cli.main(["fit", "--resume", str(run)]) == 0
    with no_space(100):
        assert fit(path, tmp_path / "other") == 2
    assert (
        one_line(capsys.readouterr().err)
        == f"error: {tmp_path}/other/config.yaml: File too large\n"
    )
    assert not (tmp_path / "other").exists()

    before = {each: each.read_bytes() for each in run.rglob("*") if each.is_file()}
    for ending in ("jsonl", "parquet", "onnx"):
        out = run / f"answers.{ending}"
        command = ["export", str(run)] if ending == "onnx" else ["predict", str(run), str(path)]
        with no_space(500):
            assert cli.main([*command, "-o", str(out)]) == 2
        assert one_line(capsys.readouterr().err).startswith(f"error: {out}: ")
    assert before == {each: each.read_bytes() for each in run.rglob("*") if each.is_file()}


def test_unwritable_outputs(rows, save, tmp_path, monkeypatch, capsys):
    path, run = save(rows), tmp_path / "run"
    assert fit(path, run, "--no-baselines") == 0
    capsys.readouterr()
    for arguments, said in (
        (["fit", path, "--output-dir", path], "is a file; choose a folder with --output-dir"),
        (["fit", path, "--output-dir", path / "run"], f"{path}/run: Not a directory"),
        (["predict", run, path, "-o", run], f"{run} is a folder; give the name of a file"),
        (["predict", run, path, "-o", path / "a.jsonl"], f"{path}: File exists"),
        (["export", run, "-o", run], f"{run} is a folder; give the name of a file"),
    ):
        assert cli.main([*map(str, arguments)]) == 2
        assert said in one_line(capsys.readouterr().err)

    def refuse(self, *arguments, **more):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    monkeypatch.setattr("fastrnn.fusion.checkpoint.load_network", None)  # not reached
    for command in ("evaluate", "explain"):
        assert cli.main([command, str(run)]) == 2
        assert one_line(capsys.readouterr().err) == f"error: {run}: Permission denied\n"
