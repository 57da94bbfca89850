"""Mutants of the product by tiles, csrc/cpu/tile_gemm.h, and how each is detected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    name: str
    replacements: Mapping[str, str]
    detected: str  #: pattern of the failure's message
    quick: bool = False  #: whether `make test` runs it; then it needs no sanitizer


MUTANTS = [
    Mutant(
        "swapped operands",
        {"tdpbf16ps<z01, x0, w1>();": "tdpbf16ps<z01, w1, x0>();"},
        "wrong sum|z and a differ",
        quick=True,
    ),
    Mutant(
        "wrong stride of pairs",
        {"store(to + k * L + i * tile_depth, square[i]);": "store(to + k * L + i * L, square[i]);"},
        "wrong sum",
    ),
    Mutant(
        "a tile is not set to 0",
        {"    if constexpr (two_rows) tilezero<z10>();\n": ""},
        "wrong sum|differ",
    ),
    Mutant(
        "the last tile of k is missing",
        {
            "for (int64_t k = 0; k < K; k += tile_depth) {\n    tileloadd<x0>": (
                "for (int64_t k = 0; k + tile_depth < K; k += tile_depth) {\n    tileloadd<x0>"
            )
        },
        "wrong sum",
        quick=True,
    ),
    Mutant(
        "a state has units beyond its row",
        {"if (count < lanes<A>) {": "if (false) {"},
        "units beyond its row",
    ),
    Mutant(
        "both column blocks are the first",
        {"tileloadd<w1>(w + block + k * L,": "tileloadd<w1>(w + k * L,"},
        "wrong sum",
    ),
    Mutant(
        "both tiles of rows are the first",
        {"tileloadd<x1>(x.at(tile_rows, k).data": "tileloadd<x1>(x.at(0, k).data"},
        "wrong sum",
    ),
    Mutant(
        "the start is not that of the rows",
        {"start.data == nullptr ? start : start.at(r, j);": "start;"},
        "wrong sum|AddressSanitizer",
    ),
    Mutant(
        "parts of W do not continue the sums",
        {"        from = {to.data, to.stride};  // continue the sums\n": ""},
        "parts of W differ|wrong sum",
    ),
    Mutant(
        "the first configuration stays",
        {"if (rows == rows_) return;": "if (rows_ > 0) return;"},
        "not configured|AddressSanitizer|wrong sum",
    ),
    Mutant(
        "all tiles of x have 16 rows",
        {
            "set(config, tile, first);": "set(config, tile, tile_rows);",
            "set(config, tile, rows - first);": "set(config, tile, tile_rows);",
        },
        "AddressSanitizer",
    ),
    Mutant(
        "the tiles are not released",
        {"    tilerelease();\n": ""},
        "not released",
    ),
    Mutant(
        "no zeros below W",
        {"pair < to.K / 2; ++pair)": "false; ++pair)"},
        "packed differently",
    ),
    Mutant(
        "the last row of an odd number is missing",
        {"    if (rows % 2 != 0) store_pair(rows, Bits{});\n": ""},
        "packed differently",
    ),
    Mutant(
        "the last tile of k exceeds the rows",
        {
            "takes_rows(int64_t K) { return K % tile_depth == 0; }": (
                "takes_rows(int64_t) { return true; }"
            )
        },
        "AddressSanitizer|wrong sum",
    ),
]
