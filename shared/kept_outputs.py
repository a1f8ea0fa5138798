"""What is kept of long outputs beside the logs, which reach back only so far.

A leader keeps what it has read; the next one puts an output together from that and from the logs
(docs/adr/0024-long-outputs-outlive-the-logs.md).
"""

from __future__ import annotations  # array[int] is a type from Python 3.12 on

from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple

from shared.ids import GatewayId, Handle
from shared.messages import Submit
from shared.packing import pack_u32, unpack_u32

OUTPUT_TTL_S: Final = 24 * 3600
"""How long what was kept of an output stays, after the last change of it."""

_END: Final = 2**32 - 1
"""Stands behind the last token of an output that has ended; no token."""


class OutputAddress(NamedTuple):
    """Names one choice of a request: the `gateway_id` and handle of its `Submit`, which never change."""

    gateway_id: GatewayId
    handle: Handle


def addresses_of(submit: Submit) -> list[OutputAddress]:
    """Where a request's choices are, in order."""
    return [OutputAddress(submit.gateway_id, Handle(submit.handle + choice)) for choice in range(submit.sampling.n)]


class OutputPart(NamedTuple):
    """Committed tokens of an output that are to be kept.

    Attributes:
        start: The first one's index in the output. From 0 on they take the place of what was kept before.
        data: Them, as `KeptOutput` reads them.
    """

    address: OutputAddress
    start: int
    data: bytes

    @classmethod
    def of(cls, address: OutputAddress, start: int, tokens: Iterable[int], *, is_ended: bool) -> OutputPart:
        """Make one of tokens, and say whether the output ends with them."""
        return cls(address, start, pack_u32([*tokens, _END] if is_ended else tokens))


class KeptOutput(NamedTuple):
    """What is kept of an output: its first tokens, and whether they are all of it."""

    tokens: array[int]
    is_ended: bool

    @classmethod
    def read(cls, data: bytes) -> KeptOutput:
        """Read what parts have left, put together.

        Raises:
            MessageError: the last item is not whole.
        """
        tokens = unpack_u32(data)
        is_ended = bool(tokens) and tokens[-1] == _END
        return cls(tokens[:-1] if is_ended else tokens, is_ended)
