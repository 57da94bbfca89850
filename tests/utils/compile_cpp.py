"""Compile small C++ test programs against csrc/."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


def compiled(
    factory: pytest.TempPathFactory, name: str, *flags: str, sources: tuple[Path, ...] = ()
) -> Path:
    """Compile tests/ops/`name`; return the program's path. Skip the test without a compiler."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    source = Path(__file__).parents[1] / "ops" / name
    target = factory.mktemp(source.stem) / source.stem
    command = [compiler, "-std=c++20", "-Wall", "-Werror", *flags, f"-I{CSRC}"]
    subprocess.run([*command, source, *sources, "-o", target], check=True)
    return target
