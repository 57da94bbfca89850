"""The resources of a compiled kernel, read from its cubin by cuobjdump of the Triton package."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import triton


@dataclass(frozen=True)
class Stats:
    """The resources of a kernel.

    The counts of instructions are those of the loop over the steps. An inner loop is counted once.
    """

    registers: int  #: per thread
    spilled: int  #: bytes of local memory per thread
    shared: int  #: bytes per block
    instructions: int
    matrix: int  #: products on tensor cores
    barriers: int
    local: int  #: reads and writes of local memory
    fences: int = 0  #: of device or system scope


INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@\S+\s+)?([A-Z][A-Z0-9_.]+)([^;]*);", re.M)
MATRIX = re.compile(r"HMMA|HGMMA|UTC\w*MMA")
PRODUCT = re.compile(rf"{MATRIX.pattern}|FFMA|DFMA")
LOCAL = re.compile(r"LDL|STL")
FENCE = re.compile(r"MEMBAR\.\w+\.(GPU|SYS)|MEMBAR\.(GPU|SYS)|FENCE\.VIEW")


def cuobjdump(*arguments: str | Path) -> str:
    """Run cuobjdump with ``-res-usage`` or ``-sass``, and return its output."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def spilled(usage: str) -> int:
    """The bytes of local memory per thread, from the output of ``cuobjdump -res-usage``."""
    return sum(int(bytes) for bytes in re.findall(r"(?:STACK|LOCAL):(\d+)", usage))


def stats(usage: str, sass: str, shared: int) -> Stats:
    """The statistics of one kernel, from the output of cuobjdump."""
    loop = step_loop(sass)
    return Stats(
        registers=int(re.findall(r"REG:(\d+)", usage)[0]),
        spilled=spilled(usage),
        shared=shared,
        instructions=len(loop),
        matrix=sum(MATRIX.match(name) is not None for name in loop),
        barriers=sum(name.startswith("BAR.") for name in loop),
        local=sum(LOCAL.match(name) is not None for name in loop),
        fences=sum(FENCE.match(name) is not None for name in loop),
    )


def step_loop(sass: str) -> list[str]:
    """The names of the instructions in the longest loop that contains a product."""
    code = [(int(at, 16), guard, name, rest) for at, guard, name, rest in INSTRUCTION.findall(sass)]
    before = _predecessors(code)
    longest: list[str] = []
    for at, _, name, rest in code:
        target = _target(rest) if name.startswith("BRA") else None
        if target is None or target >= at:
            continue
        loop = _natural_loop(before, head=target, tail=at)
        if code[0][0] in loop:  # a backward branch from out-of-line code is not a loop
            continue
        names = [name for place, _, name, _ in code if place in loop]
        if len(names) > len(longest) and any(PRODUCT.match(name) for name in names):
            longest = names
    if not longest:
        raise ValueError("no loop contains a product: is this one of the kernels?")
    return longest


def _target(rest: str) -> int | None:
    found = re.search(r"0x([0-9a-f]+)\s*$", rest.strip().rstrip("`()"))
    return int(found[1], 16) if found else None


def _predecessors(code: list[tuple[int, str, str, str]]) -> dict[int, set[int]]:
    """Map the address of each instruction to those of its predecessors."""
    before: dict[int, set[int]] = {at: set() for at, *_ in code}
    converging: dict[str, int] = {}  # the target of each convergence barrier
    for (at, guard, name, rest), after in zip(code, [*code[1:], None], strict=True):
        goes_on = bool(guard) or name not in ("BRA", "EXIT", "RET", "BSYNC")
        targets = []
        if name == "BSSY":
            converging[rest.split(",")[0].strip()] = _target(rest) or at
        elif name == "BSYNC":
            targets.append(converging.get(rest.strip(), at))
        elif name.startswith(("BRA", "WARPSYNC.COLLECTIVE", "CALL")):
            targets.append(_target(rest))
        if goes_on and after is not None:
            targets.append(after[0])
        for target in targets:
            if target in before:
                before[target].add(at)
    return before


def _natural_loop(before: dict[int, set[int]], head: int, tail: int) -> set[int]:
    """The addresses of a loop, from its head to the backward branch, with its out-of-line code."""
    loop, found = {head}, [tail]
    while found:
        at = found.pop()
        if at not in loop:
            loop.add(at)
            found += before[at]
    return loop
