"""The wait for Redis at the start of a service: services start in any order."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.errors import BusUnavailableError

_log = logging.getLogger(__name__)

_Bus = TypeVar("_Bus")
_RETRY_S: Final = 0.5


async def await_redis(connect: Callable[[], Awaitable[_Bus]]) -> _Bus:
    """Connect, again and again until Redis answers or the caller is cancelled.

    Args:
        connect: One attempt.

    Raises:
        ConfigurationError: waiting will not help.
    """
    reason = ""
    while True:
        try:
            return await connect()
        except BusUnavailableError as error:
            reason = _say(error, reason)
        await asyncio.sleep(_RETRY_S)


def await_redis_blocking(connect: Callable[[], _Bus]) -> _Bus:
    """`await_redis` in a thread; handlers of signals run meanwhile."""
    reason = ""
    while True:
        try:
            return connect()
        except BusUnavailableError as error:
            reason = _say(error, reason)
        time.sleep(_RETRY_S)


def _say(error: BusUnavailableError, last_reason: str) -> str:
    """Log why we wait, if the reason is a new one; returns it."""
    reason = str(error)
    if reason != last_reason:
        _log.warning("Waiting for Redis: %s", reason)
    return reason
