"""Encoders of users' own classes, which are imported only if their users name them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fastrnn.fusion import FitConfig, TrainConfig, fit, read_manifest
from fastrnn.fusion.errors import ConfigError

OPTIONS = {"width": 8, "hidden": 8}


@pytest.fixture
def manifest(rows, save):
    return save(rows)


def train(manifest: Path, folder: Path, **options):
    config = FitConfig(model=OPTIONS | options, train=TrainConfig(epochs=1), baselines=False)
    return fit(
        read_manifest(manifest, ignore=("audio", "text")),
        folder,
        config,
        console=Console(quiet=True),
    )


OWN = """
import torch
from torch import nn
from fastrnn.fusion.config.preprocessing import ImagePreprocessing

class Pixels(nn.Module):
    preprocessing = ImagePreprocessing(height=3, width=2, channels=1)
    features = 6

    def __init__(self, config):
        super().__init__()

    def forward(self, batch):
        frames = batch["image_frames"]
        assert frames.shape[1:] == (1, 3, 2)
        return frames.float().flatten(1)[batch["image"]] / 255
"""


@pytest.mark.slow
def test_an_own_class_is_imported_only_by_its_user(manifest, tmp_path, monkeypatch):
    (tmp_path / "own_encoders.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    encoders = {"image": "own_encoders:Pixels"}
    run = train(manifest, tmp_path / "run", encoders=encoders)
    code = (
        "import sys; from fastrnn.fusion import load; given = eval(sys.argv[2])\n"
        "try: load(sys.argv[1], encoders=given); print('own_encoders' in sys.modules)\n"
        "except ValueError as error: print('own_encoders' in sys.modules, error)"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", code, run.folder, repr(given)],
            capture_output=True, check=True, text=True, env={"PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for given in ({}, encoders)
    ]  # fmt: skip
    assert answers[0].startswith("False")
    assert "give --encoders image=own_encoders:Pixels" in answers[0]
    assert answers[1] == "True\n"


def test_a_missing_class(manifest, tmp_path):
    with pytest.raises(ConfigError, match="image=nowhere:Mine cannot be imported"):
        train(manifest, tmp_path / "run", encoders={"image": "nowhere:Mine"})
