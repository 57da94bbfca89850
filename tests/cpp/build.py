"""Compiles the C++ programs of this folder against csrc/."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


def build_program(
    factory: pytest.TempPathFactory, name: str, *flags: str, sources: tuple[Path, ...] = ()
) -> Path:
    """Compile `name`, a file of this folder. Skips the test if there is no C++ compiler."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no c++")
    source = Path(__file__).with_name(name)
    target = factory.mktemp(source.stem) / source.stem
    command = [compiler, "-std=c++20", "-Wall", "-Werror", *flags, f"-I{CSRC}"]
    subprocess.run([*command, source, *sources, "-o", target], check=True)
    return target
