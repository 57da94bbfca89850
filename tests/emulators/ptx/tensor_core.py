"""Matrix products, and the layouts of matrices in registers and shared memory.

See the PTX ISA: "Matrix multiply-accumulate instructions", and "Asynchronous warpgroup level matrix
instructions" with their shared memory descriptors. Products are summed in float64 and rounded to
float32 once; the hardware truncates intermediate sums.
"""

from __future__ import annotations

import functools

import numpy as np

from .arithmetic import Array, widen
from .errors import Invalid


def row_addresses(addresses: Array, count: int) -> Array:
    """Return the row addresses [warps, count, 8] from those of all threads, [threads].

    Lane 8j + r holds the address of row r of matrix j.
    """
    return addresses.reshape(-1, 4, 8)[:, :count]


def to_lanes(matrix: Array, transposed: bool) -> Array:
    """Distribute [warps, 8, 8] as ldmatrix and stmatrix do: two elements a lane, [threads, 2]."""
    return (matrix.transpose(0, 2, 1) if transposed else matrix).reshape(-1, 2)


def from_lanes(values: Array, transposed: bool) -> Array:
    """Invert `to_lanes`."""
    matrix = values.reshape(-1, 8, 8)
    return matrix.transpose(0, 2, 1) if transposed else matrix


def to_float(bits: Array, kind: str) -> Array:
    """Convert register bits to operands of a tensor core, which ignores a tf32's last 13 bits."""
    if kind == "tf32":
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)
    return widen(bits, kind)


@functools.cache
def _left_layout(k: int) -> tuple[Array, Array]:
    """Return the row and column of each lane's elements of A [16, k], in register order."""
    lane, pair = np.arange(32)[:, None], k // 8  # pair: elements per register
    element = np.arange(4 * pair)[None, :]
    register, inside = element // pair, element % pair
    row = lane // 4 + 8 * (register & 1)
    return row, pair * (lane % 4) + inside + k // 2 * (register >> 1)


@functools.cache
def _accumulator_layout(columns: int) -> tuple[Array, Array]:
    """Return the row and column of each lane's elements of C [16, columns]."""
    lane, element = np.arange(32)[:, None], np.arange(columns // 2)[None, :]
    row = lane // 4 + 8 * ((element >> 1) & 1)
    return row, 8 * (element // 4) + 2 * (lane % 4) + (element & 1)


def gather_left(elements: Array, k: int) -> Array:
    """Gather A [warps, 16, k] from the elements of each lane, [threads, elements]."""
    row, column = _left_layout(k)
    matrix = np.empty((len(elements) // 32, 16, k), elements.dtype)
    matrix[:, row, column] = elements.reshape(-1, *row.shape)
    return matrix


def gather_right(elements: Array, k: int) -> Array:
    """Gather B [warps, k, 8]; its columns are laid out like the first eight rows of A."""
    lane, pair = np.arange(32)[:, None], k // 8
    element = np.arange(2 * pair)[None, :]
    row = pair * (lane % 4) + element % pair + k // 2 * (element // pair)
    matrix = np.empty((len(elements) // 32, k, 8), elements.dtype)
    matrix[:, row, lane // 4] = elements.reshape(-1, *row.shape)
    return matrix


def gather_accumulator(elements: Array, columns: int) -> Array:
    """Gather C [warps, 16, columns] from the elements of each lane, [threads, columns / 2]."""
    row, column = _accumulator_layout(columns)
    matrix = np.empty((len(elements) // 32, 16, columns), elements.dtype)
    matrix[:, row, column] = elements.reshape(-1, *row.shape)
    return matrix


def scatter_accumulator(matrix: Array) -> Array:
    """Invert `gather_accumulator`."""
    row, column = _accumulator_layout(matrix.shape[-1])
    return matrix[:, row, column].reshape(-1, row.shape[1])


def multiply_add(a: Array, b: Array, c: Array) -> Array:
    """Return a b + c, float32."""
    return (a.astype(np.float64) @ b.astype(np.float64) + c).astype(np.float32)


def descriptor_addresses(descriptor: int, rows: int, transposed: bool) -> Array:
    """Return the address of each 2-byte element of a wgmma operand [rows, 16].

    `rows` counts the rows of A or the columns of B. Memory is contiguous along a row, or along a
    column if `transposed`, for the width of the swizzle pattern.
    """
    start, leading, stride = ((descriptor >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    pattern = {1: 128, 2: 64, 3: 32}.get(descriptor >> 62)
    if pattern is None or descriptor >> 49 & 7:
        raise Invalid(f"a descriptor without a swizzle, or with a base offset: {descriptor:#x}")
    row, k = np.arange(rows)[:, None], np.arange(16)[None, :]
    if transposed:
        across = pattern // 2
        address = start + row % across * 2 + row // across * leading
        address = address + k % 8 * pattern + k // 8 * stride
    else:
        address = start + row % 8 * pattern + row // 8 * stride + k * 2
    return address ^ (address >> 7 << 4 & (pattern - 1 & ~0xF))
