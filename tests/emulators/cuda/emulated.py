"""Runs the CUDA kernels in the emulator of this folder, as functions of CPU tensors.

`forward`, `backward`, `recurrence` and `recurrence_backward` have the signatures of a backend, with
keywords for the kernel, its tiling and its schedule. So `checks.py` works with this module, and
with an `Emulated` of changed sources.

Compiled objects are cached in build/emulator under a hash of their sources and flags.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastrnn.ops.arguments import Arguments, Gradients, Outputs, State, arguments
from fastrnn.ops.cells import CELLS
from fastrnn.ops.cells.base import Step
from fastrnn.ops.reference import accumulation_dtype

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


#: The names of cells in csrc/cuda/instances.
FILES = {
    "LSTM": "lstm",
    "GRU": "gru",
    "LEAKY_TANH": "leaky",
    "LEAKY_RELU": "leaky",
    "LEAKY_PRE_TANH": "leaky_pre",
    "LEAKY_PRE_RELU": "leaky_pre",
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
    gates: int = 1,
    blocks: int = 1,
    m_tiles: int = 1,
    splits: int = 1,
    resident: int = 4,
    rows: int = 8,
    at_once: int = 1,
) -> Tiling:
    """A tiling that covers `hidden` units: of `blocks` (cluster) or of `m_tiles` a block (grid).

    `gates`: of the product's depth, so 1 in the forward of every cell.
    """
    tiles = -(-hidden // 16)
    if strategy == "cluster":
        m_tiles = max(1, -(-tiles // blocks))
    else:
        blocks = max(1, -(-tiles // m_tiles))
    row = hidden * dtype.itemsize
    if gates > 1:  # each is padded to 16 bytes
        row = gates * (-(-row // 16) * 16)
    depth = 2 * -(-row // (64 * splits))
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
        self, pre: Tensor, weight_hh: Tensor, h0: Tensor, *given: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """The forward of nn.RNN's cells, see `Kernels.forward`; `options` as in `_run`."""
        return self.recurrence(pre, arguments(weight_hh, h0, *given), save=False, **options)[:2]

    def backward(
        self,
        grad_out: Tensor,
        grad_h_n: Tensor,
        out: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        *given: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """The backward of nn.RNN's cells, see `Kernels.backward`."""
        grads, saved = Outputs(grad_out, grad_h_n), Step(State(out))
        of_cell = arguments(weight_hh, h0, *given)
        return self.recurrence_backward(grads, saved, of_cell, **options)[:2]

    def recurrence(self, pre: Tensor, arguments: Arguments, save: bool, **options: Any) -> Outputs:
        """The operator's forward, see `Kernels.recurrence`; `options` as in `_run`.

        With `in_place`, the results begin in the memory of pre: out, or the saved gates.
        """
        cell, h0 = CELLS[arguments.mode], arguments.h0
        inputs = {"pre": pre, **_named(arguments)}
        results: dict[str, Any] = {"out": (*pre.shape[:-1], h0.shape[-1]), "h_n": h0.shape}
        if cell.has_c:
            results["c_n"] = h0.shape
        if cell.saves and save:
            results["gates"] = pre.shape
            if cell.has_inner:
                results["inner"] = results["out"]
        in_place = "out"
        if cell.saves:
            in_place = "gates" if save else "-"
        results = self._run("forward", inputs, results, arguments, in_place, **options)
        return Outputs(*(results.get(name) for name in Outputs._fields))

    def recurrence_backward(
        self, grads: Outputs, saved: Step, arguments: Arguments, **options: Any
    ) -> Gradients:
        """The operator's backward, see `Kernels.recurrence_backward`."""
        cell, h0, out = CELLS[arguments.mode], arguments.h0, saved.state.h
        inputs = {"grad_out": grads.out, "grad_h_n": grads.h_n, "grad_c_n": grads.c_n}
        inputs |= {"out": out, "gates": saved.gates, "inner": saved.inner, **_named(arguments)}
        pre = *out.shape[:-1], cell.gates * out.shape[-1]
        results: dict[str, Any] = {"grad_pre": pre, "grad_h0": h0.shape}
        if cell.has_c:
            results["grad_c0"] = h0.shape
        if cell.has_unit_param:
            results["grad_unit_param"] = out.shape
        for name, start in (("h", arguments.reset_h), ("c", arguments.reset_c)):
            if start is not None:
                results[f"reset_{name}_sum"] = h0.shape
        results = self._run("backward", inputs, results, arguments, "grad_pre", **options)
        names = "grad_pre", "grad_h0", "grad_c0", "grad_unit_param", "reset_h_sum", "reset_c_sum"
        gradients = (results.get(name) for name in names)
        return Gradients(*(x if x is None else x.to(out.dtype) for x in gradients))

    def close(self) -> None:
        """End the processes."""
        for server in self._servers.values():
            server.close()

    def _run(
        self,
        direction: str,
        inputs: Mapping[str, Tensor | None],
        results: Mapping[str, Sequence[int]],  # shapes
        arguments: Arguments,
        first_result: str,  # that of `in_place`
        *,
        strategy: str,  # "cluster", "grid" or "step"
        tiling: Tiling | None = None,  # unused by step
        tf32: bool = False,
        in_place: bool = False,  # the first input is also a result
        misaligned: bool = False,  # all tensors begin one element beyond a multiple of 256 bytes
        seed: int = 0,  # of the schedule
        processors: int = 8,
        blocks_per_processor: int = 1,
        running: int = 8,  # maximum blocks of an ordinary launch at once
    ) -> dict[str, Tensor]:
        given = {name: x for name, x in inputs.items() if x is not None}
        data = next(iter(given.values()))
        batch, groups, hidden = arguments.h0.shape
        element = "Tf32" if tf32 else DTYPES[data.dtype]
        dtypes = dict.fromkeys(results, data.dtype)
        for name in results:
            if name.endswith("_sum"):
                dtypes[name] = accumulation_dtype(data.dtype)
        sizes = [math.prod(shape) * dtypes[name].itemsize for name, shape in results.items()]
        header = {
            "pass": direction,
            "kernel": f"{strategy}.{element}",
            "cell": arguments.mode,
            "T": arguments.ragged().steps(data),
            "B": batch,
            "G": groups,
            "H": hidden,
            "reverse_from": arguments.reverse_from,
            "inputs": ",".join(f"{name}:{x.nbytes}" for name, x in given.items()),
            "outputs": ",".join(map("{}:{}".format, results, sizes)),
            "in_place": first_result if in_place else "-",
            "misaligned": int(misaligned),
            "seed": seed,
            "processors": processors,
            "blocks_per_processor": blocks_per_processor,
            "running": running,
            **{field.name: getattr(tiling or Tiling(), field.name) for field in fields(Tiling)},
        }
        kind = FILES.get(CELLS[arguments.mode].mode, "" if arguments.resets is None else "resets")
        source = "_".join(filter(None, (strategy, kind, element.lower())))
        answer = self._server(source).call(header, [_bytes(x) for x in given.values()], sizes)
        return {
            name: torch.frombuffer(got, dtype=dtypes[name]).reshape(shape)
            if got
            else data.new_empty(shape, dtype=dtypes[name])
            for got, (name, shape) in zip(answer, results.items(), strict=True)
        }

    def _server(self, source: str) -> Server:
        """The server of the kernels of a file in csrc/cuda/instances."""
        if source not in self._servers:
            sources = [*EMULATOR, SOURCES / "cuda" / "instances" / f"{source}.cu"]
            self._servers[source] = Server(build(source, sources, self._changed))
        return self._servers[source]


def _named(arguments: Arguments) -> dict[str, Tensor | None]:
    return dict(zip(Arguments._fields, arguments.tensors(), strict=False))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


_unchanged = Emulated()
forward = _unchanged.forward
backward = _unchanged.backward
recurrence = _unchanged.recurrence
recurrence_backward = _unchanged.recurrence_backward
