"""Builds the kernels of Intel AMX with emulated tiles, and runs tests of the CPU kernels on them.

`python -m tests.emulators.amx.kernels LIBRARY ...` runs pytest with the rest of the arguments. The
kernels of the library are then the CPU kernels, with `amx` as their only instruction set, and only
for bfloat16.
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch

from tests.emulators.cuda.build import TORCH_ABI, build

FOLDER = Path(__file__).parent
CSRC = FOLDER.parents[2] / "csrc"

#: The C++ sources of the library. Its kernels take a few seconds to compile.
SOURCES = (
    "bindings.cpp",
    "cpu_count.cpp",
    "dispatch.cpp",
    "isa_amx.cpp",
    "layer.cpp",
    "layer_gradients.cpp",
    "plan.cpp",
    "weight_product.cpp",
    "../stack.cpp",
)

#: Without any instructions beyond the baseline's, whose vectors GCC warns of. At -O1, compiling
#: takes 10 seconds longer, and the tests 4 seconds less.
FLAGS = ("-std=c++20", "-Og", "-ffp-contract=off", "-DFASTRNN_EMULATE_TILES", "-Wno-psabi")


def compile_emulated(
    name: str,
    sources: Iterable[Path],
    *flags: str,
    changed: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Compile C++ sources with emulated tiles. Skips the test if there is no C++ compiler.

    Args:
        changed: files of csrc/cpu, each with {old text: new text}.
    """
    texts = {}
    for file, replacements in (changed or {}).items():
        text = (CSRC / "cpu" / file).read_text()
        for old, new in replacements.items():
            assert text.count(old) == 1, f"{file} must contain exactly once: {old}"
            text = text.replace(old, new)
        texts[f"cpu/{file}"] = text
    return build(name, list(sources), texts, [*FLAGS, f"-I{FOLDER}", *flags])


def build_library() -> Path:
    """Build the library of kernels."""
    from torch.utils import cpp_extension

    libraries = cpp_extension.library_paths()
    return compile_emulated(
        "amx",
        [CSRC / "cpu" / name for name in SOURCES],
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        TORCH_ABI,
        *(f"-isystem{path}" for path in cpp_extension.include_paths()),
        *(f"-L{path}" for path in libraries),
        *("-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"),
    )


def run_tests(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the kernels of the library, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTRNN_CPU"}
    options = "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "--benchmark-disable"
    command = [sys.executable, "-m", __spec__.name, str(library), *options, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=CSRC.parent, check=False
    )


def _install(library: str) -> None:
    """Make the library's kernels those of the CPU backend, in place of fastrnn._C."""
    torch.ops.load_library(library)
    extension = types.ModuleType("fastrnn._C")
    extension.info = _info  # type: ignore[attr-defined]
    extension.use_instruction_set = lambda name: name == "amx"  # type: ignore[attr-defined]
    assert "fastrnn" not in sys.modules, "importing it loads fastrnn._C"
    sys.modules["fastrnn._C"] = extension
    from fastrnn.ops.backends import cpu

    assert cpu.EXTENSION.module is extension


def _info() -> dict[str, object]:
    from fastrnn._version import __version__

    return {
        "version": __version__,
        "instruction_set": "amx",
        "instruction_sets": ["amx"],
    }


if __name__ == "__main__":
    _install(sys.argv[1])
    sys.exit(pytest.main(sys.argv[2:]))
