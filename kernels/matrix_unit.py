"""The processor's matrix unit (Intel AMX): whether there is one, and leave of the system to use it.

Source: Linux, Documentation/arch/x86/xstate.rst.
"""

import ctypes
import platform
from pathlib import Path
from typing import Final

_NEEDED: Final = {"amx_tile", "amx_bf16", "amx_int8"}
_ARCH_PRCTL: Final = 158
_ARCH_REQ_XCOMP_PERM: Final = 0x1023
_XFEATURE_TILE_DATA: Final = 18


def is_present() -> bool:
    """Whether the processor has the unit and the system knows it."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return False
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    return set(flags.split()) >= _NEEDED


def request() -> bool:
    """Ask for this process, its threads and its children to use the unit; whether they may. Asking again does no harm.

    Without leave its first instruction ends the process.
    """
    libc = ctypes.CDLL(None)
    return is_present() and libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_TILE_DATA) == 0
