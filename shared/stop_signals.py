"""SIGTERM and SIGINT while a service starts.

The kernel delivers no signal without a handler to a container's first process: without one, a service that loads a
model or waits for Redis would not end before it is killed.
"""

import signal
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def exit_on_stop_signals() -> None:
    """End the process with status 0 at a stop signal, until the service has a handler of its own."""
    for number in STOP_SIGNALS:
        signal.signal(number, _exit)


def _exit(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
