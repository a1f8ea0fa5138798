"""Ends a call at its deadline, whoever else is alive: the scheduler drops it, too, but there may be none just then."""

import asyncio
import time
from http import HTTPStatus

from gateway.streaming.streams import TokenStream
from shared.messages import Fault

_CODE = "deadline_exceeded"


def expire(stream: TokenStream, deadline_ms: int) -> asyncio.TimerHandle | None:
    """Let the choices that have not ended by then fail. The handle is to be cancelled when the call ends.

    Args:
        stream: Of the call.
        deadline_ms: Unix time; 0 for never.
    """
    if not deadline_ms:
        return None

    def fail() -> None:
        for choice in stream.choices:
            state = (
                f"it had {choice.num_tokens} output tokens" if choice.num_tokens else "it waited for its first token"
            )
            message = f"The deadline passed while {state}."
            choice.fail(Fault(choice.handle, HTTPStatus.GATEWAY_TIMEOUT, message, _CODE))
            stream.note(choice.handle)
        stream.tell()

    return asyncio.get_running_loop().call_later(max(deadline_ms / 1000 - time.time(), 0.0), fail)
