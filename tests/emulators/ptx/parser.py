"""Parse PTX into instructions."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

import numpy as np

from .errors import Unknown


@dataclass(frozen=True)
class Immediate:
    bits: int


@dataclass(frozen=True)
class Address:
    base: str
    offset: int


#: The name of a register, label or symbol; a constant; an address; or several operands.
Operand = str | Immediate | Address | tuple


@dataclass(frozen=True)
class Instruction:
    """An instruction, such as `@!%p1 add.s32 %r1, %r2, 3;`."""

    text: str
    guard: str | None  #: the predicate, without @ and !
    negated: bool
    name: str  #: the opcode up to the first dot
    modifiers: tuple[str, ...]  #: the rest of the opcode, split at dots
    operands: tuple[Operand, ...]

    @property
    def type(self) -> str:
        return self.modifiers[-1]

    def unknown(self) -> Unknown:
        return Unknown(f"the emulator does not implement this form of {self.name}: {self.text}")


@dataclass
class Program:
    """A kernel: an entry of a PTX module."""

    threads: int
    parameters: list[str]
    widths: dict[str, np.dtype]  #: dtypes of registers, by the prefix before their number
    code: list[Instruction] = field(default_factory=list)
    written: set[str] = field(default_factory=set)  #: registers that an instruction writes
    labels: dict[str, int] = field(default_factory=dict)


WIDTHS = {"pred": np.dtype(bool), **{str(bits): np.dtype(f"u{bits // 8}") for bits in (16, 32, 64)}}
STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)


@functools.lru_cache(maxsize=64)
def parse(ptx: str) -> Program:
    """Parse a PTX module that has a single kernel."""
    text = re.sub(r"//[^\n]*", "", ptx)
    head, body = re.split(r"\.visible\s+\.entry", text, maxsplit=1)[1].split("{", 1)
    threads = re.search(r"\.reqntid\s+(\d+)", head)
    if threads is None:
        raise Unknown("the emulator needs .reqntid, the number of threads")
    declared = re.findall(r"\.reg\s+\.(?:[bsuf])?(pred|\d+)\s+(%[a-z]+)<", body)
    program = Program(
        threads=int(threads[1]),
        parameters=re.findall(r"\.param\s+[^,)]*?(\w+)\s*[,)]", head),
        widths={name: WIDTHS[width] for width, name in declared},
    )
    for line in _statements(body):
        while label := re.match(r"([$\w]+):\s*(.*)", line):
            program.labels[label[1]] = len(program.code)
            line = label[2]
        if line:
            ins = _instruction(line)
            program.code.append(ins)
            first = ins.operands[0] if ins.operands else ()
            program.written |= {*first} if isinstance(first, tuple) else {first}
    return program


def _statements(body: str) -> list[str]:
    """Return the statements of a body, without directives and each with its labels."""
    depth, lines = 1, []
    for line in body.split("\n"):
        line = line.strip()
        depth += line.count("{") - line.count("}")
        if depth == 0:
            break
        if line and not line.startswith("."):
            lines.append(line)
    text = re.sub(r"(:)\n", r"\1 ", "\n".join(lines))
    statements = [" ".join(part.split()) for part in text.split(";")]
    return [part for part in statements if part]


def _instruction(text: str) -> Instruction:
    match = STATEMENT.fullmatch(text)
    if match is None:
        raise Unknown(f"the emulator cannot parse the instruction {text}")
    negated, guard, opcode, rest = match.groups()
    name, *modifiers = opcode.replace("::", "_").split(".")
    operands = tuple(_operand(part) for part in _split(rest, ","))
    return Instruction(text, guard, negated == "!", name, tuple(modifiers), operands)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return tuple(_operand(part) for part in _split(text.strip("{}"), ","))
    if text.startswith("["):
        match = re.fullmatch(r"\[\s*([\w%.$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if match is None:
            raise Unknown(f"the emulator cannot parse the address {text}")
        return Address(match[1], int(match[2] or 0))
    if re.fullmatch(r"0[fd][0-9a-fA-F]+", text):
        return Immediate(int(text[2:], 16))
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
        return Immediate(int(text.rstrip("U"), 0))
    if "|" in text:
        return tuple(_split(text, "|"))
    return text
