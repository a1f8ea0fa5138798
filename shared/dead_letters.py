"""What is kept of requests that workers died with, and of messages that nobody can read.

A `Case` stands beside its request on the bus while the request lives, so that a new leader knows what an old one saw.
A `DeadLetter` stays when the request has been given up, for a person to look at: `pagestream dlq`.
"""

from enum import Enum
from typing import Final, NamedTuple, TypeVar

import msgspec

from shared.errors import MessageError
from shared.ids import GatewayId, Handle, RequestId, WorkerId
from shared.messages import VERSION

DEAD_LETTERS_KEPT: Final = 1000
"""The oldest give way."""

CASE_TTL_S: Final = 24 * 3600
"""After the last change of any case. A case that its request outlives is begun anew."""

_T = TypeVar("_T")


class Death(msgspec.Struct, frozen=True, array_like=True):
    """One worker's death while it computed something for a request.

    Attributes:
        at_ms: Unix time.
        reason: Why the worker was taken for dead.
        num_suspects: Requests that it computed something for, this one among them.
        num_output_tokens: Tokens that the request had told its client by then, over all choices.
    """

    worker_id: WorkerId
    at_ms: int
    reason: str
    num_suspects: int
    num_output_tokens: int


class Case(msgspec.Struct, frozen=True, array_like=True):
    """What is held against one request.

    Attributes:
        deaths: All of them, in order.
        num_open: The last of them that it has not got past yet.
        clears_at: By choice, output tokens with which it will have got past.
        is_closed: It has been given up, and its letter is written.
    """

    deaths: tuple[Death, ...] = ()
    num_open: int = 0
    clears_at: dict[int, int] = {}
    is_closed: bool = False


class Cause(Enum):
    """Why a message became a dead letter."""

    KILLS_WORKERS = "kills workers"
    UNREADABLE = "unreadable"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up.

    Attributes:
        source: The stream it stood on, and its id there.
        message: Its bytes, as they stood there.
        reason: In words.
        at_ms: Unix time of giving up.
        request_id: And what follows: as far as it is known.
    """

    cause: Cause
    source: str
    message: bytes
    reason: str
    at_ms: int
    request_id: RequestId = RequestId("")
    gateway_id: GatewayId = GatewayId("")
    deaths: tuple[Death, ...] = ()


class FiledLetter(NamedTuple):
    """A dead letter where it is kept, and the name that it is asked for by."""

    letter_id: str
    letter: DeadLetter


class Sender(NamedTuple):
    """Who waits for the answer to a request: its gateway, under these handles."""

    gateway_id: GatewayId
    handles: tuple[Handle, ...]


def encode_record(record: Case | DeadLetter) -> bytes:
    """The record's bytes, version first."""
    return bytes([VERSION]) + msgspec.msgpack.encode(record)


def decode_record(data: bytes, kind: type[_T]) -> _T:
    """Read what `encode_record` wrote.

    Raises:
        MessageError: another version, or no such record.
    """
    if data[:1] != bytes([VERSION]):
        raise MessageError(f"expected a {kind.__name__} of version {VERSION}, found {data[:1]!r}")
    try:
        return msgspec.msgpack.decode(data[1:], type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MessageError(f"not a {kind.__name__}: {error}") from error


def sender_of(data: bytes) -> Sender | None:
    """Who sent a request that cannot be read, another version's for instance; None if that cannot be read either."""
    try:
        envelope = msgspec.msgpack.decode(data[1:], type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    num_choices = min(max(envelope.sampling.n, 1), _MAX_CHOICES)
    return Sender(envelope.gateway_id, tuple(Handle(envelope.handle + choice) for choice in range(num_choices)))


_MAX_CHOICES: Final = 1024


class _Sampling(msgspec.Struct, frozen=True):
    n: int = 1


class _Envelope(msgspec.Struct, frozen=True):
    """As much of a `Submit` of any version as tells its sender."""

    gateway_id: GatewayId
    handle: int
    sampling: _Sampling = _Sampling()
