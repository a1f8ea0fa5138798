"""Calls of the native library, done at once, and noted if a step is being captured."""

import ctypes
import math
import struct
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.native_library import REPEATABLE, CallStruct

Argument = int | float | ctypes.Structure

_NUMBERS: Final = {name: number for number, name in enumerate(REPEATABLE)}


class NativeCalls:
    """Calls the library, and gives the memory for what a call computes."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._functions = {name: getattr(library, name) for name in REPEATABLE}
        self._memory = _LentMemory()
        self._recording: _Recording | None = None

    def __call__(self, name: str, *arguments: Argument) -> None:
        """Call one of `REPEATABLE`. Structures must live as long as what calls with them."""
        self._functions[name](*arguments)
        if self._recording is not None:
            self._recording.note(name, arguments)

    def empty(self, *shape: int) -> Tensor:
        """Memory for fp32 numbers, not initialised."""
        return torch.empty(shape) if self._recording is None else self._memory.empty(*shape)

    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Ops.capture`."""
        assert self._recording is None
        self._recording = recording = _Recording()
        try:
            result = compute()
        finally:
            self._recording = None
        return recording.repeater(self.library, result)


class _Recording:
    """The calls of one step, in order."""

    def __init__(self) -> None:
        self._calls: list[CallStruct] = []
        self._structures: list[ctypes.Structure] = []

    def note(self, name: str, arguments: tuple[Argument, ...]) -> None:
        self._structures += [argument for argument in arguments if isinstance(argument, ctypes.Structure)]
        call = CallStruct(function=_NUMBERS[name])
        call.arguments[: len(arguments)] = [_word(argument) for argument in arguments]
        self._calls.append(call)

    def repeater(self, library: ctypes.CDLL, result: Tensor) -> Callable[[], Tensor]:
        calls = (CallStruct * len(self._calls))(*self._calls)
        structures = self._structures

        def repeat() -> Tensor:
            assert structures, "kept for the calls"
            library.set_num_threads(torch.get_num_threads())
            library.repeat_calls(calls, len(calls))
            return result

        return repeat


class _LentMemory:
    """Memory of captured steps. What a tensor gives back the next one of its size takes, in whichever step."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[NDArray[np.float32]]] = defaultdict(list)

    def empty(self, *shape: int) -> Tensor:
        size = math.prod(shape)
        memory = self._free[size].pop() if self._free[size] else np.empty(size, np.float32)
        lent = memory[:]
        # The tensor, and every view of it, keeps `lent`.
        weakref.finalize(lent, self._free[size].append, memory).atexit = False
        return torch.from_numpy(lent).view(shape)


def _word(argument: Argument) -> int:
    """As `struct Call` has it."""
    if isinstance(argument, ctypes.Structure):
        return ctypes.addressof(argument)
    if isinstance(argument, float):
        return int.from_bytes(struct.pack("<f", argument), "little")
    return argument
