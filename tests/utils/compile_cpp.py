"""Small C++ programs that tests compile against csrc/."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


def compiled(
    factory: pytest.TempPathFactory, name: str, *flags: str, sources: tuple[Path, ...] = ()
) -> Path:
    """What c++ makes of `name`, a file of this folder; skips the test where there is no c++."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no c++")
    source = Path(__file__).parents[1] / "ops" / name
    target = factory.mktemp(source.stem) / source.stem
    command = [compiler, "-std=c++20", "-Wall", "-Werror", *flags, f"-I{CSRC}"]
    subprocess.run([*command, source, *sources, "-o", target], check=True)
    return target
