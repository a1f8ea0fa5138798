"""What requests cost and what they brought, in tokens: one record for each request, and sums by API key and hour."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from shared.errors import MessageError
from shared.ids import RequestId
from shared.messages import VERSION

USAGE_TTL_S: Final = 35 * 24 * 3600
"""How long sums are kept."""

RECORDS_KEPT: Final = 10_000
"""Records of single requests; the oldest give way."""

HOUR_S: Final = 3600


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Counts of tokens. Of a request with n choices the prompt counts once.

    Attributes:
        num_prompt_tokens: As the client sent them, after its chat template.
        num_cached_tokens: Those of them that the prefix cache held at the first admission.
        num_computed_tokens: Positions computed for the first time, of prompt and outputs.
        num_recomputed_tokens: Positions computed once more, after a preemption or a move to another worker.
        num_delivered_tokens: Output tokens that the client was given, over all choices.
    """

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_computed_tokens: int = 0
    num_recomputed_tokens: int = 0
    num_delivered_tokens: int = 0


COUNTERS: Final = tuple(field.removeprefix("num_").removesuffix("_tokens") for field in Usage.__struct_fields__)
"""The names of these counts where they are summed up."""

REQUESTS: Final = "requests"
"""The name of the number of requests there."""


class UsageRecord(msgspec.Struct, frozen=True, array_like=True):
    """One request that has ended, however it did.

    Attributes:
        api_key_id: Whose it was; empty where no key is wanted.
    """

    request_id: RequestId
    api_key_id: str
    usage: Usage


class HourlyUsage(NamedTuple):
    """What the requests of one API key that ended within one hour come to.

    Attributes:
        hour: Unix time / 3600.
    """

    hour: int
    api_key_id: str
    num_requests: int
    usage: Usage


def encode_usage(record: UsageRecord) -> bytes:
    """The record's bytes, version first."""
    return bytes([VERSION]) + msgspec.msgpack.encode(record)


def decode_usage(data: bytes) -> UsageRecord:
    """Undo `encode_usage`.

    Raises:
        MessageError: another version, or no such record.
    """
    if data[:1] != bytes([VERSION]):
        raise MessageError(f"expected a usage record of version {VERSION}, found {data[:1]!r}")
    try:
        return msgspec.msgpack.decode(data[1:], type=UsageRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MessageError(f"not a usage record: {error}") from error


def hourly(hour: int, sums: dict[str, int]) -> list[HourlyUsage]:
    """Sort an hour's sums, named `<API key's id> <counter>`, by key."""
    by_key: dict[str, dict[str, int]] = {}
    for name, count in sums.items():
        api_key_id, _, counter = name.rpartition(" ")
        by_key.setdefault(api_key_id, {})[counter] = count
    return [
        HourlyUsage(hour, key, counts.get(REQUESTS, 0), Usage(*(counts.get(counter, 0) for counter in COUNTERS)))
        for key, counts in sorted(by_key.items())
    ]


def sum_of(usages: Iterable[Usage]) -> Usage:
    """All of them together."""
    return Usage(*map(sum, zip(*map(msgspec.structs.astuple, usages), strict=True)))


def sums_of(record: UsageRecord) -> dict[str, int]:
    """What a record adds to the sums of its hour."""
    counts = {REQUESTS: 1, **dict(zip(COUNTERS, msgspec.structs.astuple(record.usage), strict=True))}
    return {f"{record.api_key_id} {counter}": count for counter, count in counts.items()}
