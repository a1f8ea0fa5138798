"""The ids of a stream's events: which stream, and how many events of each choice there have been. Pure.

Events of one choice are a function of its tokens, one after another. How the events of several choices alternate is
not: so an id counts them choice by choice. The end of a stream counts as an event of its first choice.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from shared.errors import InvalidRequestError

MAX_CHOICES: Final = 128
"""Of a stream whose events have ids, which grow with every choice."""

_COUNTS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*")


class EventId(NamedTuple):
    """A place in a stream.

    Attributes:
        seen: By choice, events up to this place.
    """

    stream_id: str
    seen: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "EventId":
        """Read an id as `EventNumbers` writes it.

        Raises:
            InvalidRequestError: it is none.
        """
        stream_id, _, counts = text.strip().rpartition(":")
        if not stream_id:
            raise InvalidRequestError(
                f"'Last-Event-ID' is {text[:80]!r}; expected the id of an event, such as 'chatcmpl-5f3c:7'",
                param="Last-Event-ID",
            )
        return cls(stream_id, parse_counts(counts, "Last-Event-ID"))


def parse_counts(text: str, param: str) -> tuple[int, ...]:
    """Events of each choice: "7", or "7.4" of two.

    Raises:
        InvalidRequestError: it is something else.
    """
    if not _COUNTS.fullmatch(text):
        raise InvalidRequestError(
            f"'{param}': {text[:80]!r} is no number of events, such as '7', or '7.4' of two choices"
        )
    return tuple(map(int, text.split(".")))


class EventNumbers:
    """Counts a stream's events, and leaves out those that its client has.

    Args:
        stream_id: What the ids begin with.
        num_choices: Of the stream.
        seen: By choice, events that the client has. Choices without a number have none.
        tells_ids: Whether the client reads ids.
    """

    def __init__(self, stream_id: str, num_choices: int, seen: Sequence[int] = (), *, tells_ids: bool = True) -> None:
        self._tells_ids = tells_ids
        self._prefix = f"id: {stream_id}:".encode()
        self._counts = [0] * num_choices
        self._seen = [*seen[:num_choices], *[0] * (num_choices - len(seen))]

    def numbered(self, choice: int, event: bytes) -> bytes:
        """The next event of a choice, with its id if that is told; nothing if the client has it."""
        counts = self._counts
        count = counts[choice] = counts[choice] + 1
        if count <= self._seen[choice]:
            return b""
        if not self._tells_ids:
            return event
        if len(counts) == 1:
            return b"%b%d\n%b" % (self._prefix, count, event)
        return b"%b%b\n%b" % (self._prefix, ".".join(map(str, counts)).encode(), event)
