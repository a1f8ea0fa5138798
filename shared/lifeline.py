"""How a service that a supervisor started ends with it, even when the supervisor is killed outright."""

import ctypes
import os
import signal
import sys
from typing import Final

SUPERVISOR_VARIABLE: Final = "PAGESTREAM_SUPERVISOR"
"""Holds the pid without which a service does not want to live."""

_PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


def follow_supervisor() -> None:
    """Have the kernel kill this process as soon as its supervisor is gone. Does nothing for a service of its own."""
    supervisor = os.environ.pop(SUPERVISOR_VARIABLE, None)
    if supervisor is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The kernel tells only of deaths from here on.
    if os.getppid() != int(supervisor):
        sys.exit(f"pagestream: the supervisor {supervisor} is gone")
