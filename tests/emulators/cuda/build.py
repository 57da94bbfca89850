"""Compiles the CUDA kernels with the emulator of this folder, and other programs.

Compiled objects are cached in build/emulator under a hash of their sources and flags.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "csrc"
CACHE = ROOT / "build" / "emulator"
FOLDER = Path(__file__).parent
#: The emulator, and the server that runs kernels in it.
MACHINE = sorted(path for path in FOLDER.glob("*.cpp") if path.stem not in ("server", "operators"))
EMULATOR = [*MACHINE, FOLDER / "server.cpp"]

FLAGS = [
    *("-std=c++20", "-DFASTRNN_EMULATE", "-O1", "-g1", "-fno-strict-aliasing"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    # AddressSanitizer finds what these would, and they take long to compile.
    "-fno-sanitize=null,object-size,pointer-overflow,vptr",
    "-w",  # `#pragma unroll` is not g++'s
]
#: For the kernels and the server: they compile in a third of the time, and run 1.8 times as long.
#: Without sanitizers, what -Og saves is lost again.
LARGE = ["-Og", "--param", "asan-instrumentation-with-call-threshold=0"]
#: Sources that contain only arithmetic, and take a large part of the time.
UNSANITIZED = {"mma.cpp", "conversions.cpp"}
#: As in setup.py.
TORCH_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
JOBS = 2  # compilations at once, of all processes


def build(
    name: str,
    sources: list[Path],
    changed: Mapping[str, str] | None = None,
    base: list[str] = FLAGS,
) -> Path:
    """Build an executable from these sources.

    Args:
        changed: replaced texts of files, by their paths in csrc.
        base: flags of the compiler and the linker.
    """
    if shutil.which("g++") is None:
        pytest.skip("the emulator needs g++")
    texts = {SOURCES / path: text for path, text in (changed or {}).items()}
    with contextlib.ExitStack() as stack:
        tree = SOURCES
        if texts:
            tree = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "csrc"
            shutil.copytree(SOURCES, tree)
            for path, text in texts.items():
                (tree / path.relative_to(SOURCES)).write_text(text)
        with ThreadPoolExecutor(JOBS) as pool:
            objects = list(pool.map(lambda source: _object(source, texts, tree, base), sources))
    key = _hash([*map(str, objects), *base])
    return _create(CACHE / f"{name}-{key}", ["g++", *base, *map(str, objects)])


def build_library(name: str, sources: list[Path], changed: Mapping[str, str] | None = None) -> Path:
    """Build a library that Python can load, which sanitizers would not allow."""
    flags = [flag for flag in FLAGS if "sanitize" not in flag]
    flags += ["-fPIC", "-shared", TORCH_ABI]
    flags += [f"-I{path}" for path in cpp_extension.include_paths()]
    flags += [f"-L{path}" for path in cpp_extension.library_paths()]
    return build(name, sources, changed, [*flags, "-Wl,--no-as-needed", "-ltorch_cpu"])


def _object(source: Path, texts: Mapping[Path, str], tree: Path, base: list[str]) -> Path:
    large = source.suffix == ".cu" or source.stem == "server"
    flags = [*base, *LARGE] if large and any("sanitize" in flag for flag in base) else base
    if source.name in UNSANITIZED:
        flags = [*(flag for flag in base if "sanitize" not in flag), "-O2"]
    key = _hash([*flags, *_included(source, texts).values()])
    place = tree / source.relative_to(SOURCES) if source.is_relative_to(SOURCES) else source
    command = ["g++", *flags, f"-I{tree}", f"-I{FOLDER}", "-x", "c++", "-c", str(place)]
    return _create(CACHE / f"{source.stem}-{key}.o", command)


def _included(source: Path, texts: Mapping[Path, str]) -> dict[Path, str]:
    """The texts of a file and of the project's files that it includes."""
    found: dict[Path, str] = {}

    def visit(path: Path) -> None:
        if path in found:
            return
        found[path] = texts[path] if path in texts else path.read_text()
        for name in re.findall(r'^#include "(.+)"', found[path], re.MULTILINE):
            folders = path.parent, SOURCES, FOLDER, FOLDER.parent / "amx"
            candidates = [(folder / name).resolve() for folder in folders]
            visit(next(candidate for candidate in candidates if candidate.exists()))

    visit(source)
    return found


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _create(target: Path, command: list[str]) -> Path:
    """Create `target` by the command unless it exists. One process creates it for all."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not target.exists():
            with _slot():
                unfinished = target.with_suffix(".unfinished")
                result = subprocess.run(
                    [*command, "-o", str(unfinished)], capture_output=True, text=True
                )
                if result.returncode != 0:
                    raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
                unfinished.rename(target)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _slot() -> Iterator[None]:
    """Hold one of the JOBS compilation slots."""
    while True:
        for number in range(JOBS):
            with (CACHE / f"slot-{number}").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        time.sleep(0.05)
