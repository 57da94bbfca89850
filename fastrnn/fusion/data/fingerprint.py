"""A fingerprint of a manifest's rows, which shows whether they have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .manifest import Manifest


def fingerprint(manifest: Manifest) -> str:
    """Return a hash of the rows. It covers neither the folder's path nor the content of files."""
    digest = hashlib.sha256()
    for name in manifest.table.column_names:
        if name == "where":
            continue
        for number, part in enumerate(_parts(manifest.table[name])):
            digest.update(f"{name} {number} {len(part)} ".encode())
            digest.update(part)
    return digest.hexdigest()


def _parts(column: pa.ChunkedArray) -> Iterator[bytes]:
    """Yield the lengths and the values of a column as bytes, without the unused ones of a slice."""
    array = column.combine_chunks()
    yield np.packbits(pc.is_valid(array).to_numpy(zero_copy_only=False).astype(bool)).tobytes()
    if pa.types.is_list(array.type):
        yield pc.fill_null(pc.list_value_length(array), 0).to_numpy().tobytes()
        array = pc.list_flatten(array)
        yield from _parts(pa.chunked_array([array]))
    elif pa.types.is_string(array.type):
        array = pc.fill_null(array, "")
        _, starts, data = array.buffers()
        offsets = np.frombuffer(starts, np.int32)[array.offset : array.offset + len(array) + 1]
        yield np.diff(offsets).tobytes()
        if data is not None:
            yield data.slice(int(offsets[0]), int(offsets[-1] - offsets[0])).to_pybytes()
    else:
        yield pc.fill_null(array, 0).to_numpy(zero_copy_only=False).tobytes()
