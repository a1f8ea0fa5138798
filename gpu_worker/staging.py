"""How a step's arrays come to the device: as they are on a CPU; to a GPU together, by one copy from pinned memory."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.generic]
Move = Callable[[Sequence[Array]], list[Tensor]]
"""Gives tensors of the same dtypes and shapes. They are valid until the next call but one."""

ALIGNMENT: Final = 16
"""Bytes, which kernels count upon."""
_LEAST_BYTES: Final = 1 << 16
_NUM_SLOTS: Final = 2


def move_to(device: torch.device) -> Move:
    """The way to a device."""
    return PinnedStaging(device).move if device.type == "cuda" else as_tensors


def as_tensors(arrays: Sequence[Array]) -> list[Tensor]:
    """On a CPU, without a copy."""
    return [torch.from_numpy(array) for array in arrays]


def lay_out(arrays: Sequence[Array]) -> tuple[list[int], int]:
    """Where each array begins if they lie one after another, aligned, and the bytes of all."""
    starts, total = [], 0
    for array in arrays:
        starts.append(total)
        total += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return starts, total


def write(arrays: Sequence[Array], starts: Sequence[int], buffer: NDArray[np.uint8]) -> None:
    """Put arrays into a buffer at these places."""
    for array, start in zip(arrays, starts, strict=True):
        buffer[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def views(buffer: Tensor, arrays: Sequence[Array], starts: Sequence[int]) -> list[Tensor]:
    """The same arrays in a buffer of bytes, on whichever device."""
    return [
        buffer[start : start + array.nbytes].view(_dtype(array)).view(array.shape)
        for array, start in zip(arrays, starts, strict=True)
    ]


def _dtype(array: Array) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype


class _Slot:
    """A pinned buffer and its copy on the device.

    Attributes:
        copied: The copy is there; the pinned buffer may be written again.
        used: Whatever reads the copy has run; the copy may be overwritten.
    """

    def __init__(self) -> None:
        self.host = torch.empty(0, dtype=torch.uint8)
        self.copy = torch.empty(0, dtype=torch.uint8)
        self.copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.used: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def grow(self, num_bytes: int, device: torch.device) -> None:
        size = max(_LEAST_BYTES, 1 << (num_bytes - 1).bit_length())
        self.host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        self.copy = torch.empty(size, dtype=torch.uint8, device=device)


class PinnedStaging:
    """Two slots in turn, and a stream of its own: a step's numbers are copied while the step before still computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._slots = [_Slot() for _ in range(_NUM_SLOTS)]
        self._last: _Slot | None = None

    def move(self, arrays: Sequence[Array]) -> list[Tensor]:
        """See `Move`. The current stream waits for the copy; this thread waits only for the slot's earlier one."""
        computing = torch.cuda.current_stream(self._device)
        if self._last is not None:
            self._last.used.record(computing)  # all that reads it has been launched by now
        self._last = slot = self._slots[0] if self._last is not self._slots[0] else self._slots[1]
        starts, num_bytes = lay_out(arrays)
        slot.copied.synchronize()
        if num_bytes > len(slot.host):
            slot.grow(num_bytes, self._device)
            self._stream.wait_stream(computing)  # whose tensor may have had this memory
        write(arrays, starts, slot.host.numpy())
        self._stream.wait_event(slot.used)
        with torch.cuda.stream(self._stream):
            slot.copy[:num_bytes].copy_(slot.host[:num_bytes], non_blocking=True)
            slot.copied.record(self._stream)
        computing.wait_event(slot.copied)
        return views(slot.copy, arrays, starts)
