"""Records on Redis: what is written is written by one Lua script, so that it happens altogether or not at all."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import redis

from shared.archive import LEASE_S, Claim, Kind, Page, claim_lost, jobs_full, record_exists, storage_full, unknown_start
from shared.errors import ClaimLostError
from shared.keys import ArchiveKeys
from shared.redis_bus.connecting import Argument, block
from shared.redis_bus.connection import AsyncConnection
from shared.redis_bus.scripts import Script

_PACKAGE: Final = "shared.redis_archive"
_KEEP: Final = Script.load("keep", package=_PACKAGE)
_CREATE: Final = Script.load("keep", package=_PACKAGE, is_repeatable=False)
_DROP: Final = Script.load("drop", package=_PACKAGE)
_CLAIM: Final = Script.load("claim", package=_PACKAGE, is_repeatable=False)
_RENEW: Final = Script.load("renew", package=_PACKAGE)
_LEASE_MS: Final = int(LEASE_S * 1000)


class RedisArchive:
    """Implements `Archive`. Connects on first use; each `parts` that waits has a connection of its own meanwhile.

    Args:
        url: Of the server.
        pool: Whose records these are.
        kind: What they are.
        max_bytes: Of all documents and parts together.
        drops_oldest: Make room by forgetting the oldest listed records that are no jobs.
    """

    def __init__(self, url: str, pool: str, kind: Kind, *, max_bytes: int, drops_oldest: bool = False) -> None:
        self._url = url
        self._name = f"archive-{kind}"
        self._keys = ArchiveKeys(pool, kind)
        self._max_bytes = max_bytes
        self._drops_oldest = drops_oldest
        self._commands = AsyncConnection(url, self._name)
        self._idle: list[AsyncConnection] = []
        self._waiting: set[AsyncConnection] = set()

    async def create(
        self, record_id: str, document: bytes, *, ttl_s: float, is_listed: bool = True, max_jobs: int | None = None
    ) -> Claim:
        """Keep a document under a new id, and hold the claim to it. Not repeated if the answer is lost."""
        job = "" if max_jobs is None else _LEASE_MS
        bound = "" if max_jobs is None else max_jobs
        head = (record_id, "", 0, _milliseconds(ttl_s), int(is_listed), job, bound)
        await self._keep(_CREATE, Claim(record_id, 1), (*head, *self._limits, 1, document))
        return Claim(record_id, 1)

    async def read(self, record_id: str) -> bytes | None:
        """The document, or None if there is none of this id (any more)."""
        document: bytes | None = await self._call("HGET", self._keys.record(record_id), "doc")
        return document

    async def page(self, *, after: str | None, limit: int, newest_first: bool) -> Page:
        """Listed records in the order of their creation."""
        start = 0
        if after is not None:
            rank = await self._call("ZREVRANK" if newest_first else "ZRANK", self._keys.listed, after)
            if rank is None:
                raise unknown_start(after)
            start = rank + 1
        command = "ZREVRANGE" if newest_first else "ZRANGE"
        documents: list[bytes] = []
        while len(documents) <= limit:
            ids = await self._call(command, self._keys.listed, start, start + limit)
            if not ids:
                break
            start += len(ids)
            # Records that have expired are still listed until the next write.
            found = [await self.read(record_id.decode()) for record_id in ids]
            documents += [document for document in found if document is not None]
        return Page(documents[:limit], len(documents) > limit)

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
        job = "0" if is_done else ""
        count = "none" if drops_parts else num_parts
        head = (claim.record_id, claim.fence, count, _milliseconds(ttl_s), int(is_listed), job, "")
        await self._keep(_KEEP, claim, (*head, *self._limits, int(document is not None), document or b"", *parts))

    async def parts(self, record_id: str, start: int, *, limit: int = 256, timeout_s: float = 0.0) -> list[bytes]:
        """Parts from `start` on, at most `limit`; waits for the first of them; empty after the timeout."""
        command = ("XREAD", "COUNT", limit, *block(timeout_s), "STREAMS", self._keys.parts(record_id), f"0-{start}")
        if not timeout_s:
            reply = await self._call(*command)
            return [fields[1] for _, fields in reply[0][1]] if reply else []
        connection = self._idle.pop() if self._idle else AsyncConnection(self._url, f"{self._name}-reader")
        self._waiting.add(connection)
        try:
            reply = await connection.call(*command, wait_s=timeout_s, is_repeatable=True)
        finally:
            self._waiting.discard(connection)
            self._idle.append(connection)
        return [fields[1] for _, fields in reply[0][1]] if reply else []

    async def delete(self, record_id: str) -> bool:
        """Forget a record, whoever works on it. Whether it was there."""
        return bool(await self._commands.run(_DROP, self._all_keys(record_id), record_id))

    async def seize(self, record_id: str) -> Claim | None:
        """Take the claim from whoever holds it; None if there is no such record. A job's lease starts anew."""
        return await self._claim(record_id)

    async def take_job(self) -> Claim | None:
        """Claim a job whose lease has run out, if there is one."""
        return await self._claim("")

    async def renew(self, claim: Claim) -> None:
        """Let a job's lease start anew."""
        await self._renew(claim, _LEASE_MS)

    async def hand_back(self, claim: Claim) -> None:
        """Let a job's lease be over now, so that somebody takes it at once. Does nothing if the claim is lost."""
        with suppress(ClaimLostError):
            await self._renew(claim, 0)

    async def close(self) -> None:
        """Release the connections."""
        for connection in (self._commands, *self._idle, *self._waiting):
            await connection.close()
        self._idle.clear()

    @property
    def _limits(self) -> tuple[Argument, ...]:
        record, parts = self._keys.record(""), self._keys.parts("")
        return (self._max_bytes, int(self._drops_oldest), record, parts)

    def _all_keys(self, record_id: str) -> list[str]:
        keys = self._keys
        return [keys.record(record_id), keys.parts(record_id), keys.listed, keys.expiry, keys.sizes, keys.jobs]

    async def _keep(self, script: Script, claim: Claim, arguments: Sequence[Argument]) -> None:
        try:
            await self._commands.run(script, self._all_keys(claim.record_id), *arguments)
        except redis.ResponseError as error:
            raise self._translated(error, claim) from error

    async def _claim(self, record_id: str) -> Claim | None:
        keys = [self._keys.jobs]
        claimed = await self._commands.run(_CLAIM, keys, record_id, _LEASE_MS, self._keys.record(""))
        return Claim(claimed[0].decode(), claimed[1]) if claimed else None

    async def _renew(self, claim: Claim, lease_ms: int) -> None:
        keys = [self._keys.record(claim.record_id), self._keys.jobs]
        try:
            await self._commands.run(_RENEW, keys, claim.record_id, claim.fence, lease_ms)
        except redis.ResponseError as error:
            raise self._translated(error, claim) from error

    def _translated(self, error: redis.ResponseError, claim: Claim) -> Exception:
        match str(error).split():
            case ["LOST"]:
                return claim_lost(claim)
            case ["EXISTS"]:
                return record_exists(claim.record_id)
            case ["CROWDED", num_jobs]:
                return jobs_full(int(num_jobs))
            case ["FULL", num_used, num_new]:
                return storage_full(int(num_used), int(num_new), self._max_bytes)
            case _:
                return error

    async def _call(self, *command: Argument) -> Any:  # noqa: ANN401 - a reply's shape depends on the command
        return await self._commands.call(*command, is_repeatable=True)


def _milliseconds(ttl_s: float | None) -> Argument:
    return "" if ttl_s is None else int(ttl_s * 1000)
