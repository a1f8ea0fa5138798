"""Reads GGUF files, version 2 and 3: the header here, the tensors' numbers by the `gguf` package.

`gguf.GGUFReader` makes several numpy arrays for each string of the vocabulary and needs 1.9 s for a 49,152-token model;
this reader needs 0.05 s, which is what a gateway has that only wants the tokenizer.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from shared.errors import CheckpointError

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_DEFAULT_ALIGNMENT: Final = 32
_MAX_DIMENSIONS: Final = 4

_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Value types of the metadata as `struct` writes them."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor as it lies in the file.

    Attributes:
        shape: Row-major, as numpy and PyTorch write it (the file has it the other way round).
        data: u8, the raw bytes; mapped, not read.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    data: NDArray[np.uint8]

    def dequantize(self) -> NDArray[np.float32]:
        """The numbers, in a new array of `shape`.

        Raises:
            CheckpointError: nobody knows how to read this type.
        """
        rows = self.data.reshape(*self.shape[:-1], -1)
        try:
            numbers = dequantize(rows, self.type)
        except NotImplementedError as error:
            raise CheckpointError(
                f"tensor {self.name} is of type {self.type.name}, which cannot be read; convert it to Q8_0 or F16"
            ) from error
        return np.asarray(numbers, dtype=np.float32).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """One file, mapped into memory.

    Attributes:
        metadata: Plain values by key; arrays are lists.
    """

    path: Path
    metadata: dict[str, object]
    tensors: dict[str, GGUFTensor]

    @classmethod
    def open(cls, path: Path) -> "GGUFFile":
        """Map a file and read its header.

        Raises:
            CheckpointError: it cannot be read, is cut off, or is no GGUF file of a known version.
        """
        try:
            mapped: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        try:
            metadata, tensors = _parse(mapped)
        except (struct.error, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{path} is no intact GGUF file: {error}; compare its size or checksum, or fetch it again"
            ) from error
        return cls(path, metadata, tensors)


class _Header:
    """Walks over the header from front to back."""

    def __init__(self, mapped: NDArray[np.uint8]) -> None:
        self._view = mapped.data
        self.offset = 0

    def scalar(self, code: str) -> int | float | bool:
        (value,) = struct.unpack_from(f"<{code}", self._view, self.offset)
        self.offset += struct.calcsize(f"<{code}")
        return value  # type: ignore[no-any-return]

    def count(self, code: str, *, item_bytes: int) -> int:
        """How many items follow, which must fit into the rest of the file."""
        value = int(self.scalar(code))
        if value * item_bytes > len(self._view) - self.offset:
            raise ValueError(f"{value} items at byte {self.offset} reach beyond the end")
        return value

    def string(self) -> str:
        length = self.count("Q", item_bytes=1)
        self.offset += length
        return str(self._view[self.offset - length : self.offset], "utf-8")

    def strings(self, count: int) -> list[str]:
        """The same as `string` so often, with the loop's names bound once: vocabularies have 10**5 of them."""
        view, offset, size, unpack = self._view, self.offset, len(self._view), struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            (length,) = unpack(view, offset)
            offset += 8 + length
            if offset > size:
                raise ValueError(f"a string of {length} bytes reaches beyond the end")
            found.append(str(view[offset - length : offset], "utf-8"))
        self.offset = offset
        return found

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return self.scalar(_scalar_code(kind))

    def _array(self) -> list[object]:
        kind = int(self.scalar("I"))
        if kind == _STRING:
            return list(self.strings(self.count("Q", item_bytes=8)))
        if kind == _ARRAY:
            return [self._array() for _ in range(self.count("Q", item_bytes=12))]
        code = _scalar_code(kind)
        count = self.count("Q", item_bytes=struct.calcsize(f"<{code}"))
        values = struct.unpack_from(f"<{count}{code}", self._view, self.offset)
        self.offset += struct.calcsize(f"<{count}{code}")
        return list(values)


def _scalar_code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"unknown value type {kind}")
    return _SCALARS[kind]


def _parse(mapped: NDArray[np.uint8]) -> tuple[dict[str, object], dict[str, GGUFTensor]]:
    header = _Header(mapped)
    if bytes(mapped[:4]) != _MAGIC:
        raise ValueError("it does not start with 'GGUF'")
    header.offset = 4
    version = header.scalar("I")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}; little-endian files of version 2 and 3 are read")
    num_tensors = header.count("Q", item_bytes=24)
    num_values = header.count("Q", item_bytes=13)
    metadata: dict[str, object] = {}
    for _ in range(num_values):
        key = header.string()
        metadata[key] = header.value(int(header.scalar("I")))
    entries = [_tensor_entry(header) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        raise ValueError(f"general.alignment is {alignment}")
    start = -(-header.offset // alignment) * alignment
    return metadata, {entry[0]: _map(mapped, start, entry) for entry in entries}


_Entry = tuple[str, tuple[int, ...], int, int]
"""A tensor's name, row-major shape, type and offset from the start of the data."""


def _tensor_entry(header: _Header) -> _Entry:
    name = header.string()
    num_dimensions = int(header.scalar("I"))
    if num_dimensions > _MAX_DIMENSIONS:
        raise ValueError(f"tensor {name} has {num_dimensions} dimensions")
    shape = tuple(int(header.scalar("Q")) for _ in range(num_dimensions))[::-1]
    return name, shape, int(header.scalar("I")), int(header.scalar("Q"))


def _map(mapped: NDArray[np.uint8], start: int, entry: _Entry) -> GGUFTensor:
    name, shape, type_id, offset = entry
    try:
        kind = GGMLQuantizationType(type_id)
    except ValueError as error:
        raise ValueError(f"tensor {name} is of the unknown type {type_id}") from error
    block_items, block_bytes = GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block_items:
        raise ValueError(f"tensor {name} of type {kind.name} cannot have the shape {shape}")
    first = start + offset
    last = first + prod(shape) // block_items * block_bytes
    if last > len(mapped):
        raise ValueError(f"tensor {name} ends at byte {last}, the file at {len(mapped)}")
    return GGUFTensor(name, shape, kind, mapped[first:last])
