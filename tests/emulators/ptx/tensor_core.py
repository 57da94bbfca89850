"""Where the elements of a matrix lie in registers and in shared memory; the products themselves.

PTX ISA: "Matrix multiply-accumulate instructions", and "Asynchronous warpgroup level matrix
instructions" with their descriptors of shared memory. Products are summed in float64 and rounded
once, to float32; the hardware cuts off sooner.
"""

from __future__ import annotations

import functools

import numpy as np

from .arithmetic import Array, widen
from .errors import Invalid


def warp_matrices(addresses: Array, count: int) -> Array:
    """Of [threads] addresses, those of the rows: [warps, count, 8]; lane 8j + r has row r of j."""
    return addresses.reshape(-1, 4, 8)[:, :count]


def to_lanes(matrix: Array, transposed: bool) -> Array:
    """[warps, 8, 8] to the two that each lane has of ldmatrix's and stmatrix's: [threads, 2]."""
    return (matrix.transpose(0, 2, 1) if transposed else matrix).reshape(-1, 2)


def from_lanes(values: Array, transposed: bool) -> Array:
    matrix = values.reshape(-1, 8, 8)
    return matrix.transpose(0, 2, 1) if transposed else matrix


def to_float(bits: Array, kind: str) -> Array:
    """Registers' bits as the unit's operands; of a tf32 the last 13 bits are cut off."""
    if kind == "tf32":
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)
    return widen(bits, kind)


@functools.cache
def _left(k: int) -> tuple[Array, Array]:
    """Row and column of each element that a lane has of A [16, k], in the registers' order."""
    lane, pair = np.arange(32)[:, None], k // 8  # elements of a register
    element = np.arange(4 * pair)[None, :]
    register, inside = element // pair, element % pair
    row = lane // 4 + 8 * (register & 1)
    return row, pair * (lane % 4) + inside + k // 2 * (register >> 1)


@functools.cache
def _accumulator(columns: int) -> tuple[Array, Array]:
    """The same of C [16, columns]."""
    lane, element = np.arange(32)[:, None], np.arange(columns // 2)[None, :]
    row = lane // 4 + 8 * ((element >> 1) & 1)
    return row, 8 * (element // 4) + 2 * (lane % 4) + (element & 1)


def left(elements: Array, k: int) -> Array:
    """A [warps, 16, k] of what each lane has of it, [threads, elements]."""
    row, column = _left(k)
    matrix = np.empty((len(elements) // 32, 16, k), elements.dtype)
    matrix[:, row, column] = elements.reshape(-1, *row.shape)
    return matrix


def right(elements: Array, k: int) -> Array:
    """B [warps, k, 8]: its columns lie as A's rows do, but for there being no second eight."""
    lane, pair = np.arange(32)[:, None], k // 8
    element = np.arange(2 * pair)[None, :]
    row = pair * (lane % 4) + element % pair + k // 2 * (element // pair)
    matrix = np.empty((len(elements) // 32, k, 8), elements.dtype)
    matrix[:, row, lane // 4] = elements.reshape(-1, *row.shape)
    return matrix


def accumulator(elements: Array, columns: int) -> Array:
    """C [warps, 16, columns] of what each lane has of it, [threads, columns / 2]."""
    row, column = _accumulator(columns)
    matrix = np.empty((len(elements) // 32, 16, columns), elements.dtype)
    matrix[:, row, column] = elements.reshape(-1, *row.shape)
    return matrix


def from_accumulator(matrix: Array) -> Array:
    row, column = _accumulator(matrix.shape[-1])
    return matrix[:, row, column].reshape(-1, row.shape[1])


def product(a: Array, b: Array, c: Array) -> Array:
    """a b + c, float32."""
    return (a.astype(np.float64) @ b.astype(np.float64) + c).astype(np.float32)


def described(descriptor: int, rows: int, turned: bool) -> Array:
    """The address of each element, 2 bytes, of a wgmma's operand [rows, 16], from its descriptor.

    rows counts A's rows or B's columns. Not `turned`, what lies side by side in memory is a row,
    as long as a swizzle's pattern; turned, a column.
    """
    start, leading, stride = ((descriptor >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    pattern = {1: 128, 2: 64, 3: 32}.get(descriptor >> 62)
    if pattern is None or descriptor >> 49 & 7:
        raise Invalid(f"a descriptor without a swizzle, or with an offset of it: {descriptor:#x}")
    row, k = np.arange(rows)[:, None], np.arange(16)[None, :]
    if turned:
        across = pattern // 2
        address = start + row % across * 2 + row // across * leading
        address = address + k % 8 * pattern + k // 8 * stride
    else:
        address = start + row % 8 * pattern + row // 8 * stride + k * 2
    return address ^ (address >> 7 << 4 & (pattern - 1 & ~0xF))
