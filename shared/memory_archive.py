"""The archive inside one process: the same rules as on Redis, no server. Ships with the product, and for tests."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.archive import LEASE_S, Claim, Page, claim_lost, jobs_full, record_exists, storage_full, unknown_start


@dataclass(slots=True)
class _Record:
    document: bytes
    expires_s: float
    is_listed: bool
    fence: int = 1
    parts: list[bytes] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return len(self.document) + sum(map(len, self.parts))


class MemoryArchive:
    """Implements `Archive`. One event loop.

    Args:
        max_bytes: Of all documents and parts together.
        drops_oldest: Make room by forgetting the oldest listed records that are no jobs.
        clock: Seconds that leases and expiry are measured with.
    """

    def __init__(
        self, *, max_bytes: int = 1 << 30, drops_oldest: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._drops_oldest = drops_oldest
        self._clock = clock
        self._kept: dict[str, _Record] = {}
        self._leases: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def create(
        self, record_id: str, document: bytes, *, ttl_s: float, is_listed: bool = True, max_jobs: int | None = None
    ) -> Claim:
        """Keep a document under a new id, and hold the claim to it."""
        self._forget_expired()
        if record_id in self._kept:
            raise record_exists(record_id)
        if max_jobs is not None and len(self._leases) >= max_jobs:
            raise jobs_full(len(self._leases))
        self._make_room(len(document), keeping=record_id)
        self._kept[record_id] = _Record(document, self._clock() + ttl_s, is_listed)
        if max_jobs is not None:
            self._leases[record_id] = self._clock() + LEASE_S
        return Claim(record_id, 1)

    async def read(self, record_id: str) -> bytes | None:
        """The document, or None if there is none of this id (any more)."""
        record = self._records().get(record_id)
        return record.document if record else None

    async def page(self, *, after: str | None, limit: int, newest_first: bool) -> Page:
        """Listed records in the order of their creation."""
        listed = [(record_id, record.document) for record_id, record in self._records().items() if record.is_listed]
        if newest_first:
            listed.reverse()
        if after is not None:
            ids = [record_id for record_id, _ in listed]
            if after not in ids:
                raise unknown_start(after)
            listed = listed[ids.index(after) + 1 :]
        return Page([document for _, document in listed[:limit]], len(listed) > limit)

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
        """Change a record."""
        record = self._claimed(claim)
        if drops_parts:
            record.parts.clear()
        is_retry = len(record.parts) >= num_parts + len(parts)
        assert is_retry or len(record.parts) == num_parts
        new_parts = () if is_retry else parts
        old_size = len(record.document) if document is not None else 0
        self._make_room(len(document or b"") + sum(map(len, new_parts)) - old_size, keeping=claim.record_id)
        if document is not None:
            record.document = document
        record.parts.extend(new_parts)
        if ttl_s is not None:
            record.expires_s = self._clock() + ttl_s
        if is_listed and not record.is_listed:
            record.is_listed = True
            self._kept[claim.record_id] = self._kept.pop(claim.record_id)
        if is_done:
            self._leases.pop(claim.record_id, None)
        self._changed.set()
        self._changed = asyncio.Event()

    async def parts(self, record_id: str, start: int, *, limit: int = 256, timeout_s: float = 0.0) -> list[bytes]:
        """Parts from `start` on, at most `limit`; waits for the first of them; empty after the timeout."""
        try:
            async with asyncio.timeout(timeout_s or None):
                while True:
                    record = self._records().get(record_id)
                    found = record.parts[start : start + limit] if record else []
                    if found or not timeout_s:
                        return found
                    await self._changed.wait()
        except TimeoutError:
            return []

    async def delete(self, record_id: str) -> bool:
        """Forget a record, whoever works on it. Whether it was there."""
        self._leases.pop(record_id, None)
        return self._records().pop(record_id, None) is not None

    async def seize(self, record_id: str) -> Claim | None:
        """Take the claim from whoever holds it; None if there is no such record. A job's lease starts anew."""
        record = self._records().get(record_id)
        if record is None:
            return None
        record.fence += 1
        if record_id in self._leases:
            self._leases[record_id] = self._clock() + LEASE_S
        return Claim(record_id, record.fence)

    async def take_job(self) -> Claim | None:
        """Claim a job whose lease has run out, if there is one."""
        self._forget_expired()
        for record_id, until_s in self._leases.items():
            if until_s <= self._clock():
                return await self.seize(record_id)
        return None

    async def renew(self, claim: Claim) -> None:
        """Let a job's lease start anew."""
        self._claimed(claim)
        if claim.record_id in self._leases:
            self._leases[claim.record_id] = self._clock() + LEASE_S

    async def hand_back(self, claim: Claim) -> None:
        """Let a job's lease be over now, so that somebody takes it at once. Does nothing if the claim is lost."""
        record = self._records().get(claim.record_id)
        if record is not None and record.fence == claim.fence and claim.record_id in self._leases:
            self._leases[claim.record_id] = self._clock()

    async def close(self) -> None:
        """There is nothing to release."""

    def _records(self) -> dict[str, _Record]:
        self._forget_expired()
        return self._kept

    def _forget_expired(self) -> None:
        now_s = self._clock()
        for record_id in [record_id for record_id, record in self._kept.items() if record.expires_s <= now_s]:
            del self._kept[record_id]
            self._leases.pop(record_id, None)

    def _claimed(self, claim: Claim) -> _Record:
        record = self._records().get(claim.record_id)
        if record is None or record.fence != claim.fence:
            raise claim_lost(claim)
        return record

    def _make_room(self, num_bytes: int, *, keeping: str) -> None:
        def used() -> int:
            return sum(record.num_bytes for record in self._kept.values())

        while num_bytes > 0 and used() + num_bytes > self._max_bytes:
            idle = (i for i, r in self._kept.items() if r.is_listed and i not in self._leases and i != keeping)
            oldest = next(idle, None) if self._drops_oldest else None
            if oldest is None:
                raise storage_full(used(), num_bytes, self._max_bytes)
            del self._kept[oldest]
