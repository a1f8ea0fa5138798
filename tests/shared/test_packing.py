from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import MessageError
from shared.packing import pack_u8, pack_u16, pack_u32, unpack_u16, unpack_u32


@given(st.lists(st.integers(0, 2**16 - 1)))
def test_u16_round_trip(values: list[int]) -> None:
    assert list(unpack_u16(pack_u16(values))) == values


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_u32_round_trip(values: list[int]) -> None:
    assert list(unpack_u32(pack_u32(values))) == values


def test_bytes_are_little_endian_and_of_the_fields_width() -> None:
    assert pack_u8([1, 255]) == b"\x01\xff"
    assert pack_u16([1, 0x1234]) == b"\x01\x00\x34\x12"
    assert pack_u32([1, 0x12345678]) == b"\x01\x00\x00\x00\x78\x56\x34\x12"


@pytest.mark.parametrize(("pack", "value"), [(pack_u8, 256), (pack_u16, 2**16), (pack_u32, 2**32), (pack_u32, -1)])
def test_a_number_that_does_not_fit_is_refused(pack: Callable[[list[int]], bytes], value: int) -> None:
    with pytest.raises((OverflowError, ValueError)):
        pack([value])


def test_half_a_number_is_refused() -> None:
    with pytest.raises(MessageError, match="3 bytes are no array of items of 4 bytes"):
        unpack_u32(b"\0\0\0")
