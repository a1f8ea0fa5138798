"""What outlives a request, as a protocol that `redis_archive` and `memory_archive` implement.

A record is a document and a log of parts that grows behind it: a response and its stream events, a file and its chunks,
a batch and its answered lines. A record may be a job: then somebody has to work on it until it is done. Who works on it
holds a claim, which is good until another one takes the record: a worker whose lease ran out, or was seized, cannot
write any more.

What holds on every implementation:

- Every record expires, and its parts with it. The bytes of all records of a kind are bounded.
- An update is one act: document, parts, expiry and the end of the job, or nothing of it.
- Parts are numbered from 0 without a gap. The same update again is a retry and does nothing.
- A job that is not done is given to somebody again once its lease has run out.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from shared.errors import ClaimLostError, NotFoundError, QueueFullError, RecordExistsError, StorageFullError

LEASE_S = 6.0
"""A job that nobody has renewed for so long is given to another worker."""

RENEWAL_S = 2.0
"""How often a job is to be renewed."""


class Kind(StrEnum):
    """What a record is."""

    RESPONSE = "response"
    FILE = "file"
    BATCH = "batch"
    STREAM = "stream"


class Claim(NamedTuple):
    """The right to write to a record.

    Attributes:
        fence: Grows with every claim; only the largest is good.
    """

    record_id: str
    fence: int


class Page(NamedTuple):
    """Some of the listed records.

    Attributes:
        documents: In the order asked for.
        has_more: Whether more follow.
    """

    documents: list[bytes]
    has_more: bool


class Archive(Protocol):
    """The records of one kind. Asynchronous; safe to use from many tasks of one event loop.

    Every method raises BusUnavailableError if Redis does not answer.
    """

    async def create(
        self, record_id: str, document: bytes, *, ttl_s: float, is_listed: bool = True, max_jobs: int | None = None
    ) -> Claim:
        """Keep a document under a new id, and hold the claim to it.

        Args:
            record_id: Unique for ever.
            document: Its bytes.
            ttl_s: When it expires, its parts with it.
            is_listed: Whether `page` shows it.
            max_jobs: Make it a job, unless there are that many already.

        Raises:
            RecordExistsError: there is one of this id.
            StorageFullError: it does not fit, and nothing older may be dropped for it.
            QueueFullError: there are `max_jobs` jobs.
        """

    async def read(self, record_id: str) -> bytes | None:
        """The document, or None if there is none of this id (any more)."""

    async def page(self, *, after: str | None, limit: int, newest_first: bool) -> Page:
        """Listed records in the order of their creation.

        Raises:
            NotFoundError: there is no record `after` which to begin.
        """

    async def update(
        self,
        claim: Claim,
        *,
        document: bytes | None = None,
        parts: Sequence[bytes] = (),
        num_parts: int = 0,
        ttl_s: float | None = None,
        is_listed: bool = False,
        is_done: bool = False,
        drops_parts: bool = False,
    ) -> None:
        """Change a record.

        Args:
            claim: Ours.
            document: Replaces the one before; None leaves it.
            parts: Appended.
            num_parts: How many parts there are before these.
            ttl_s: From now; None leaves it.
            is_listed: List it from now on.
            is_done: It is no job any more.
            drops_parts: Forget the parts there are; what is appended later begins anew.

        Raises:
            ClaimLostError: somebody else has claimed the record, or it is gone.
            StorageFullError: it does not fit.
        """

    async def parts(self, record_id: str, start: int, *, limit: int = 256, timeout_s: float = 0.0) -> list[bytes]:
        """Parts from `start` on, at most `limit`; waits for the first of them; empty after the timeout."""

    async def delete(self, record_id: str) -> bool:
        """Forget a record, whoever works on it. Whether it was there."""

    async def seize(self, record_id: str) -> Claim | None:
        """Take the claim from whoever holds it; None if there is no such record. A job's lease starts anew."""

    async def take_job(self) -> Claim | None:
        """Claim a job whose lease has run out, if there is one."""

    async def renew(self, claim: Claim) -> None:
        """Let a job's lease start anew.

        Raises:
            ClaimLostError: somebody else has claimed the record, or it is gone.
        """

    async def hand_back(self, claim: Claim) -> None:
        """Let a job's lease be over now, so that somebody takes it at once. Does nothing if the claim is lost."""

    async def close(self) -> None:
        """Release the connections."""


def storage_full(num_used: int, num_new: int, max_bytes: int) -> StorageFullError:
    """The error for what does not fit."""
    return StorageFullError(
        f"{num_new} bytes do not fit: {num_used} of {max_bytes} are in use; delete something, or wait until it expires",
        code="storage_full",
    )


def record_exists(record_id: str) -> RecordExistsError:
    """The error for an id that is taken."""
    return RecordExistsError(f"there is a record {record_id!r} already")


def jobs_full(num_jobs: int) -> QueueFullError:
    """The error for one job too many."""
    return QueueFullError(
        f"{num_jobs} jobs are waiting or running, the most there may be; retry later", retry_after_s=5
    )


def claim_lost(claim: Claim) -> ClaimLostError:
    """The error for a claim that is good no more."""
    return ClaimLostError(f"claim {claim.fence} of {claim.record_id} is over: it was taken by another one, or deleted")


def unknown_start(after: str) -> NotFoundError:
    """The error for a page that would begin nowhere."""
    return NotFoundError(f"'after': there is no {after!r}, or no more", param="after")
