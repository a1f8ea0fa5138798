"""What is kept of a stream: how it was asked for, where its tokens are told, and now and then what has come. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from gateway.streaming.gap import ChoiceStream, TokenItem
from gateway.streaming.streams import TokenStream
from gateway.streaming.token_logprobs import TokenLogprobs
from shared.ids import GatewayId, Handle, StepId, WorkerId

_NAME_CHARACTERS: Final = 24
"""Of a stream's id after its prefix: its record is named after them. What follows tells attempts apart."""


class StreamRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One API call that can be gone on with.

    Attributes:
        stream_id: What its client sees as its `id`.
        endpoint: Name of the endpoint.
        body: As it was sent.
        owner: Who may go on with it.
        is_keyed: It came with an idempotency key, so that its client may come back.
        created: Unix time, as its client was told.
        system_fingerprint: The same.
        gateway_id: Of the address at which its tokens are told.
        first_handle: Of the same; the other choices follow.
        cursors: By writer, up to where its log holds nothing of it.
    """

    stream_id: str
    endpoint: str
    body: bytes
    owner: str
    is_keyed: bool
    created: int
    system_fingerprint: str
    gateway_id: GatewayId = GatewayId("")
    first_handle: Handle = Handle(0)
    cursors: Mapping[WorkerId, StepId] = {}

    def encode(self) -> bytes:
        """Its bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "StreamRecord":
        """Read what `encode` wrote."""
        return msgspec.msgpack.decode(data, type=cls)


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """What has come of a stream since the checkpoint before.

    Attributes:
        items: Of its choices, in order within each.
        prompt_logprobs: By handle and place.
        cursors: By writer, up to where its log is in the items so far.
        is_over: Nothing more will come.
    """

    items: Sequence[TokenItem] = ()
    prompt_logprobs: Mapping[Handle, Mapping[int, TokenLogprobs]] = {}
    cursors: Mapping[WorkerId, StepId] = {}
    is_over: bool = False

    def encode(self) -> bytes:
        """Its bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "Checkpoint":
        """Read what `encode` wrote."""
        return msgspec.msgpack.decode(data, type=cls)


def name_of(stream_id: str) -> str:
    """The id of a stream's record."""
    return stream_id.rpartition("-")[2][:_NAME_CHARACTERS]


def keyed_name(owner: str, endpoint: str, key: str) -> str:
    """The id of the record of whatever an owner asks an endpoint under an idempotency key."""
    parts = "\0".join((owner, endpoint, key)).encode()
    return blake2b(parts, digest_size=_NAME_CHARACTERS // 2).hexdigest()


def restored(record: StreamRecord, checkpoints: Iterable[Checkpoint], num_choices: int, now_s: float) -> TokenStream:
    """The stream as of the last checkpoint, with all of its tokens to be taken."""
    first = record.first_handle
    stream = TokenStream([ChoiceStream(Handle(first + i), now_s) for i in range(num_choices)])
    for checkpoint in checkpoints:
        for handle, told in checkpoint.prompt_logprobs.items():
            stream.choice(handle).prompt_logprobs.update(told)
        for item in checkpoint.items:
            stream.choice(item.handle).accept(item, now_s)
            stream.notify(item.handle)
    return stream
