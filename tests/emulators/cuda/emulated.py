"""Runs the CUDA kernels in the emulator of this folder, as functions of CPU tensors.

`forward` and `backward` have the signature of a backend, with keywords for the kernel, its tiling
and its schedule. So `checks.py` works with this module, and with an `Emulated` of changed sources.

Compiled objects are cached in build/emulator under a hash of their sources and flags.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastrnn.ops.ragged import Ragged

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "csrc"
CACHE = ROOT / "build" / "emulator"
FOLDER = Path(__file__).parent
EMULATOR = sorted(FOLDER.glob("*.cpp"))

FLAGS = [
    *("-std=c++20", "-DFASTRNN_EMULATE", "-O1", "-g1", "-fno-strict-aliasing"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    # AddressSanitizer finds what these would, and they take long to compile.
    "-fno-sanitize=null,object-size,pointer-overflow,vptr",
    "-w",  # `#pragma unroll` is not g++'s
]
#: For the kernels, which are large: compiling takes half the time, running 1.5 times.
CALLS = ["--param", "asan-instrumentation-with-call-threshold=0"]
#: Sources that contain only arithmetic, and take a large part of the time.
UNSANITIZED = {"mma.cpp", "conversions.cpp"}
JOBS = 2  # compilations at once, of all processes

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
SECONDS = 300.0  # time limit of a call

DTYPES = {
    torch.bfloat16: "Bfloat16",
    torch.float16: "Float16",
    torch.float32: "Float32",
    torch.float64: "Float64",
}


class EmulationError(Exception):
    """The emulator found a fault, or a launch failed; the message says which."""


class Crash(EmulationError):
    """A sanitizer or a signal ended the process; the message is its report."""


@dataclass(frozen=True)
class Tiling:
    """How W_hh and the batch are tiled: see csrc/cuda/plan.h."""

    blocks: int = 1
    m_tiles: int = 1
    splits: int = 1
    resident: int = 4
    streamed: int = 0
    rows: int = 8
    at_once: int = 1  #: tiles of the batch, `Plan::at_once`


def tiling_for(
    strategy: str,
    hidden: int,
    dtype: torch.dtype,
    *,
    blocks: int = 1,
    m_tiles: int = 1,
    splits: int = 1,
    resident: int = 4,
    rows: int = 8,
    at_once: int = 1,
) -> Tiling:
    """A tiling that covers `hidden` units: of `blocks` (cluster) or of `m_tiles` a block (grid)."""
    tiles = -(-hidden // 16)
    if strategy == "cluster":
        m_tiles = max(1, -(-tiles // blocks))
    else:
        blocks = max(1, -(-tiles // m_tiles))
    depth = 2 * -(-hidden * dtype.itemsize // (64 * splits))
    return Tiling(blocks, m_tiles, splits, resident, max(0, depth - resident), rows, at_once)


# Building.


def build(name: str, sources: list[Path], changed: Mapping[str, str] | None = None) -> Path:
    """Build an executable from these sources.

    Args:
        changed: replaced texts of files, by their paths in csrc.
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
            objects = list(pool.map(lambda source: _object(source, texts, tree), sources))
    key = _hash([*map(str, objects), *FLAGS])
    return _create(CACHE / f"{name}-{key}", ["g++", *FLAGS, *map(str, objects)])


def _object(source: Path, texts: Mapping[Path, str], tree: Path) -> Path:
    flags = [*FLAGS, *CALLS] if source.suffix == ".cu" else FLAGS
    if source.name in UNSANITIZED:
        flags = [*(flag for flag in FLAGS if "sanitize" not in flag), "-O2"]
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
            folders = path.parent, SOURCES, FOLDER
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


# Running.


class Server:
    """A process that runs kernels, see server.cpp. It is restarted after a crash."""

    def __init__(self, executable: Path) -> None:
        self._executable = executable
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, header: Mapping[str, object], inputs: list[bytes], sizes: list[int]) -> Any:
        """The results, of `sizes` bytes each."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        line = " ".join(f"{name}={value}" for name, value in header.items())
        limit = threading.Timer(SECONDS, process.kill)
        limit.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(line.encode() + b"\n" + b"".join(inputs))
                process.stdin.flush()
            answer = process.stdout.readline().decode().strip()
            if answer == "ok":
                return [bytearray(process.stdout.read(size)) for size in sizes]
        finally:
            in_time = limit.is_alive()
            limit.cancel()
        if answer.startswith("error "):
            raise EmulationError(f"{answer[6:]}\nin {line}")
        code = process.wait()
        self._errors.seek(0)
        report = self._errors.read().decode(errors="replace")[:6000]
        self.close()
        reason = f"ended with {code}" if in_time else f"took more than {SECONDS:.0f} s"
        raise Crash(f"the emulator {reason}\n{report}\nin {line}")

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
            self._process = subprocess.Popen(
                [self._executable],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | SANITIZERS,
            )
        return self._process


class Emulated:
    """The kernels as a backend. Each is compiled when it is first called.

    Args:
        changed: replaced texts of source files, by their paths in csrc.
    """

    def __init__(self, changed: Mapping[str, str] | None = None) -> None:
        self._changed = dict(changed or {})
        self._servers: dict[str, Server] = {}

    def forward(
        self,
        pre: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        ragged: Ragged,
        activation: int,
        reverse_from: int,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """The operator's forward, see `fastrnn.ops.reference.forward`; `options` as in `_run`."""
        arguments = ragged, activation, reverse_from
        return self._run("forward", [pre, weight_hh, h0], h0, *arguments, **options)

    def backward(
        self,
        grad_out: Tensor,
        grad_h_n: Tensor,
        out: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        ragged: Ragged,
        activation: int,
        reverse_from: int,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """The operator's backward, see `fastrnn.ops.reference.backward`."""
        arguments = ragged, activation, reverse_from
        inputs = [grad_out, grad_h_n, out, weight_hh]
        return self._run("backward", inputs, h0, *arguments, **options)

    def close(self) -> None:
        """End the processes."""
        for server in self._servers.values():
            server.close()

    def _run(
        self,
        direction: str,
        inputs: list[Tensor],
        h0: Tensor,
        ragged: Ragged,
        activation: int,
        reverse_from: int,
        *,
        strategy: str,  # "cluster", "grid" or "step"
        tiling: Tiling | None = None,  # unused by step
        tf32: bool = False,
        in_place: bool = False,  # the first input is also the first result
        misaligned: bool = False,  # all tensors begin one element beyond a multiple of 256 bytes
        seed: int = 0,  # of the schedule
        processors: int = 8,
        blocks_per_processor: int = 1,
        running: int = 8,  # maximum blocks of an ordinary launch at once
    ) -> tuple[Tensor, Tensor]:
        data = inputs[0]
        batch, groups, hidden = h0.shape
        given = [t for t in ragged if t is not None]
        element = "Tf32" if tf32 else DTYPES[data.dtype]
        tiling = tiling or Tiling()
        header = {
            "pass": direction,
            "kernel": f"{strategy}.{element}",
            "T": ragged.steps(data),
            "B": batch,
            "G": groups,
            "H": hidden,
            "N": data.shape[:-2].numel(),
            "reverse_from": reverse_from,
            "activation": activation,
            "lengths": int(ragged.lengths is not None),
            "offsets": int(ragged.offsets is not None),
            "resets": int(ragged.resets is not None),
            "in_place": int(in_place),
            "misaligned": int(misaligned),
            "seed": seed,
            "processors": processors,
            "blocks_per_processor": blocks_per_processor,
            "running": running,
            **{field.name: getattr(tiling, field.name) for field in fields(tiling)},
        }
        results = data, h0
        source = f"{strategy}_{'' if ragged.resets is None else 'resets_'}{element.lower()}"
        answer = self._server(source).call(
            header, [_bytes(t) for t in [*inputs, *given]], [t.nbytes for t in results]
        )
        first, second = (
            torch.frombuffer(got, dtype=like.dtype).reshape(like.shape)
            if like.numel()
            else torch.empty_like(like)
            for got, like in zip(answer, results, strict=True)
        )
        return first, second

    def _server(self, source: str) -> Server:
        """The server of the kernels of a file in csrc/cuda/instances."""
        if source not in self._servers:
            sources = [*EMULATOR, SOURCES / "cuda" / "instances" / f"{source}.cu"]
            self._servers[source] = Server(build(source, sources, self._changed))
        return self._servers[source]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


_unchanged = Emulated()
forward = _unchanged.forward
backward = _unchanged.backward
