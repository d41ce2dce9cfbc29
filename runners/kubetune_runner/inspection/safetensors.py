"""Names, formats and shapes of the tensors of a safetensors file, from its header alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from kubetune.api.bounded import DOCUMENT, json_object

Tensors = dict[str, tuple[str, list[int]]]
"""Tensor name to safetensors format, such as BF16, and shape."""

HEADER_LIMIT_BYTES = 100_000_000
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def parse_header(chunks: Iterator[bytes], size: int | None) -> Tensors:
    """Read a header from the file's first chunks; takes no more of them than it needs.

    Raises ValueError saying what is wrong with the file.
    """
    data = bytearray()
    wanted = 8
    for chunk in chunks:
        data += chunk
        if data.startswith(b"version https://git-lfs"):
            raise ValueError("is a Git LFS pointer, not the weights; run `git lfs pull`")
        if wanted == 8 and len(data) >= 8:
            wanted = 8 + struct.unpack("<Q", data[:8])[0]
            if wanted > HEADER_LIMIT_BYTES:
                raise ValueError("isn't a safetensors file")
        if len(data) >= wanted > 8:
            break
    if wanted == 8 or len(data) < wanted:
        raise ValueError("is cut off")
    try:
        header = json_object(data[8:wanted], DOCUMENT)
        tensors: Tensors = {}
        end = 0
        for name, entry in header.items():
            if name != "__metadata__":
                tensors[name] = (str(entry["dtype"]), [int(extent) for extent in entry["shape"]])
                end = max(end, int(entry["data_offsets"][1]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("has a broken safetensors header") from error
    if size is not None and size < wanted + end:
        raise ValueError(f"is cut off: it has {size:,} of {wanted + end:,} bytes")
    return tensors


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes in chunks."""
    with path.open("rb") as stream:
        while chunk := stream.read(64 * 1024):
            yield chunk
