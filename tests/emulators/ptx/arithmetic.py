"""Instructions that compute registers from registers, as functions of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .parser import Instruction

Array = np.ndarray


class Operation(NamedTuple):
    compute: Callable[..., Any]  #: maps arrays to an array, or to a tuple for several registers
    sources: tuple[np.dtype, ...]  #: dtypes of the arrays


def _dtypes() -> dict[str, np.dtype]:
    kinds = {"s": "i", "u": "u", "b": "u"}
    known = {f"{k}{b}": np.dtype(f"{kinds[k]}{b // 8}") for k in kinds for b in (8, 16, 32, 64)}
    floats = {"f32": np.dtype("f4"), "f64": np.dtype("f8"), "f16": np.dtype("f2")}
    # NumPy has no bfloat16 and no packed types: registers hold their raw bits.
    bits = {"bf16": known["u16"], "bf16x2": known["u32"], "f16x2": known["u32"]}
    return {**known, **floats, **bits, "tf32": known["u32"], "pred": np.dtype(bool)}


#: The dtype for each instruction type, which is the last modifier.
DTYPES = _dtypes()
WIDER = {DTYPES[f"{kind}{bits}"]: DTYPES[f"{kind}{2 * bits}"] for kind in "su" for bits in (16, 32)}
WIDER |= {DTYPES["u16"]: DTYPES["u32"], DTYPES["u32"]: DTYPES["u64"]}
UINT32 = DTYPES["u32"]
PRED = DTYPES["pred"]


def widen(bits: Array, kind: str) -> Array:
    """Convert bf16 or f16 values, given as uint16 bits, to float32."""
    if kind == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32)


def narrow(values: Array, kind: str) -> Array:
    """Round float32 values to the nearest bf16 or f16, and return their bits as uint16."""
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FFF), rounded).astype(np.uint16)


def operation(ins: Instruction) -> Operation:
    """Return the operation of an instruction.

    Raises:
        Unknown: The emulator does not implement the instruction.
    """
    rule = RULES.get(ins.name)
    if rule is None or ins.type not in DTYPES:
        raise ins.unknown()
    return rule(ins)


def _elementwise(function: Callable[..., Array], sources: int, *allowed: str) -> Callable:
    """Return a rule for instructions that have sources and a result of the same type."""

    def rule(ins: Instruction) -> Operation:
        if ins.type in ("bf16", "bf16x2", "f16x2") or not {*ins.modifiers[:-1]} <= {*allowed}:
            raise ins.unknown()
        return Operation(function, (DTYPES[ins.type],) * sources)

    return rule


def _multiply(ins: Instruction) -> Operation:
    """Return the operation of mul and mad."""
    *how, kind = ins.modifiers
    dtype = DTYPES[kind]
    more = (dtype,) if ins.name == "mad" else ()
    if how == ["lo"] or (dtype.kind == "f" and how in ([], ["rn"]) and ins.name == "mul"):
        return Operation(lambda a, b, c=0: (a * b + c).astype(dtype), (dtype, dtype, *more))
    if how not in (["hi"], ["wide"]) or dtype not in WIDER:
        raise ins.unknown()
    wide = WIDER[dtype]
    if how == ["wide"]:
        more = (wide,) if more else ()
        return Operation(
            lambda a, b, c=0: (a.astype(wide) * b.astype(wide) + c).astype(wide),
            (dtype, dtype, *more),
        )
    if more:
        raise ins.unknown()
    bits = 8 * dtype.itemsize
    return Operation(
        lambda a, b: ((a.astype(wide) * b.astype(wide)) >> bits).astype(dtype), (dtype, dtype)
    )


def _fma(a: Array, b: Array, c: Array) -> Array:
    """Compute in float64 and round to the result; the hardware rounds only once."""
    return (a.astype(np.float64) * b + c).astype(a.dtype)


def _truncating_divide(a: Array, b: Array) -> Array:
    """Divide integers and round towards zero."""
    if a.dtype.kind == "u":
        return a // b
    magnitude = np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64))
    return (magnitude * np.sign(a) * np.sign(b)).astype(a.dtype)


def _shift(ins: Instruction) -> Operation:
    """Return shl or shr; shifts by the width or more give 0, or the sign for signed types."""
    dtype = DTYPES[ins.type]
    last = dtype.type(8 * dtype.itemsize - 1)

    def left(a: Array, by: Array) -> Array:
        return np.where(by > last, dtype.type(0), a << np.minimum(by, last).astype(dtype))

    def right(a: Array, by: Array) -> Array:
        shifted = a >> np.minimum(by, last).astype(dtype)
        return np.where(by > last, a >> last >> dtype.type(1), shifted)

    return Operation(left if ins.name == "shl" else right, (dtype, UINT32))


def _extract(ins: Instruction) -> Operation:
    """Return bfe, which extracts a bit field."""
    dtype = DTYPES[ins.type]
    width = 8 * dtype.itemsize

    def compute(a: Array, position: Array, length: Array) -> Array:
        bits = a.view(f"u{dtype.itemsize}")
        up = (width - position.astype(int) - length).astype(bits.dtype)
        return (bits << up).view(dtype) >> (width - length.astype(int)).astype(dtype)

    return Operation(compute, (dtype, UINT32, UINT32))


def _permute(ins: Instruction) -> Operation:
    """Return prmt: each byte is one of the eight of two words, or eight copies of its sign bit."""
    if ins.modifiers != ("b32",):
        raise ins.unknown()

    def compute(a: Array, b: Array, selector: Array) -> Array:
        bytes_of = np.stack((a, b), axis=1).view(np.uint8)
        chosen = selector[:, None] >> np.arange(0, 16, 4, np.uint32)
        values = np.take_along_axis(bytes_of, (chosen & 7).astype(np.int64), axis=1)
        values = np.where(chosen & 8, (values >> 7) * np.uint8(255), values)
        return np.ascontiguousarray(values).view(np.uint32)[:, 0]

    return Operation(compute, (UINT32,) * 3)


COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}


def _compare(ins: Instruction) -> Operation:
    """Return setp: comparisons with NaN are false, or true if the name has the suffix u."""
    *how, kind = ins.modifiers
    if len(how) != 1:
        raise ins.unknown()
    name, unordered = how[0], False
    if name not in COMPARISONS and name[:-1] in COMPARISONS and name.endswith("u"):
        name, unordered = name[:-1], True
    if name not in COMPARISONS:
        raise ins.unknown()
    dtype = DTYPES[kind]
    floating = dtype.kind == "f" or "bf16" in kind or kind == "f16x2"

    def compare(a: Array, b: Array) -> Array:
        result = COMPARISONS[name](a, b)
        if floating and (unordered or name == "ne"):
            nan = np.isnan(a) | np.isnan(b)
            result = result | nan if unordered else result & ~nan
        return result

    if kind in ("bf16x2", "f16x2"):
        half = kind.removesuffix("x2")
        return Operation(
            lambda a, b: tuple(
                compare(widen(x, half), widen(y, half))
                for x, y in zip(_halves(a), _halves(b), strict=True)
            ),
            (dtype, dtype),
        )
    if kind == "bf16":
        return Operation(lambda a, b: compare(widen(a, kind), widen(b, kind)), (dtype, dtype))
    return Operation(compare, (dtype, dtype))


def _halves(a: Array) -> tuple[Array, Array]:
    return a.astype(np.uint16), (a >> 16).astype(np.uint16)


def _convert(ins: Instruction) -> Operation:
    *how, to, of = ins.modifiers
    source, target = DTYPES[of], DTYPES[to]
    if to in ("bf16x2", "f16x2") and of == "f32" and how == ["rn"]:
        half = to.removesuffix("x2")
        return Operation(
            lambda high, low: (narrow(high, half).astype(np.uint32) << 16) | narrow(low, half),
            (source, source),
        )
    if to in ("bf16", "f16") and of == "f32" and how == ["rn"]:
        return Operation(lambda a: narrow(a, to), (source,))
    if to == "f32" and of in ("bf16", "f16") and not how:
        return Operation(lambda bits: widen(bits, of), (DTYPES["u16"],))
    if to == "tf32" and of == "f32" and how == ["rna"]:  # to 10 bits, ties away from zero
        return Operation(lambda bits: (bits + np.uint32(0x1000)) & ~np.uint32(0x1FFF), (UINT32,))
    integers = source.kind in "iu" and target.kind in "iu" and to[0] in "su" and of[0] in "su"
    if (integers and not how) or (source.kind in "iu" and to in ("f32", "f64") and how == ["rn"]):
        return Operation(lambda a: a.astype(target), (source,))
    raise ins.unknown()


def _select(ins: Instruction) -> Operation:
    dtype = DTYPES[ins.type]
    return Operation(lambda a, b, first: np.where(first, a, b), (dtype, dtype, PRED))


def _approximate(function: Callable[..., Array], sources: int = 1) -> Callable:
    """Return a rule that computes the function in float64 and rounds the result."""

    def compute(*arrays: Array) -> Array:
        return function(*(a.astype(np.float64) for a in arrays)).astype(arrays[0].dtype)

    return _elementwise(compute, sources, "approx", "full", "rn")


def _divide(ins: Instruction) -> Operation:
    floating = DTYPES[ins.type].kind == "f"
    return (_approximate(np.divide, 2) if floating else _elementwise(_truncating_divide, 2))(ins)


RULES: dict[str, Callable[[Instruction], Operation]] = {
    "add": _elementwise(np.add, 2, "rn"),
    "sub": _elementwise(np.subtract, 2, "rn"),
    "mul": _multiply,
    "mad": _multiply,
    "fma": _elementwise(_fma, 3, "rn"),
    "neg": _elementwise(np.negative, 1),
    "abs": _elementwise(np.abs, 1),
    "div": _divide,
    "min": _elementwise(np.fmin, 2),
    "max": _elementwise(np.fmax, 2),
    "not": _elementwise(np.invert, 1),
    "and": _elementwise(np.bitwise_and, 2),
    "or": _elementwise(np.bitwise_or, 2),
    "xor": _elementwise(np.bitwise_xor, 2),
    "shl": _shift,
    "shr": _shift,
    "bfe": _extract,
    "prmt": _permute,
    "setp": _compare,
    "selp": _select,
    "cvt": _convert,
    "tanh": _approximate(np.tanh),
    "ex2": _approximate(np.exp2),
}
