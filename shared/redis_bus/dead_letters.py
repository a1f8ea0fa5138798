"""The dead letters of a pool on Redis, for a person who looks at them from outside."""

import logging
from collections.abc import Iterable

from shared.dead_letters import DeadLetter, FiledLetter, decode_record
from shared.errors import MessageError
from shared.keys import PoolKeys
from shared.redis_bus.connection import AsyncConnection

_log = logging.getLogger(__name__)

_Entry = tuple[bytes, list[bytes]]


class RedisDeadLetterBox:
    """Implements `DeadLetterBox`. Takes no part in the pool."""

    def __init__(self, url: str, pool: str) -> None:
        self._stream = PoolKeys(pool).dead_letters
        self._connection = AsyncConnection(url, "dead-letters")

    async def letters(self, *, limit: int) -> list[FiledLetter]:
        """The newest, the newest first. Those that cannot be read any more are left out.

        Raises:
            BusUnavailableError: Redis does not answer.
        """
        entries = await self._connection.call("XREVRANGE", self._stream, "+", "-", "COUNT", limit, is_repeatable=True)
        return _readable(entries)

    async def letter(self, letter_id: str) -> FiledLetter | None:
        """One of them."""
        if not _is_id(letter_id):
            return None
        found = await self._connection.call("XRANGE", self._stream, letter_id, letter_id, is_repeatable=True)
        return next(iter(_readable(found)), None)

    async def drop(self, letter_ids: Iterable[str]) -> int:
        """Throw them away; says how many there were."""
        ids = [letter_id for letter_id in letter_ids if _is_id(letter_id)]
        return int(await self._connection.call("XDEL", self._stream, *ids, is_repeatable=True)) if ids else 0

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()


def _is_id(text: str) -> bool:
    """Whether a stream could have an entry of this name: any other is an error to Redis."""
    milliseconds, _, number = text.partition("-")
    return all(part.isdecimal() and part.isascii() and int(part) < 2**64 for part in (milliseconds, number))


def _readable(entries: list[_Entry]) -> list[FiledLetter]:
    found = []
    for entry_id, (_, data) in entries:
        try:
            found.append(FiledLetter(entry_id.decode(), decode_record(data, DeadLetter)))
        except MessageError as error:
            _log.warning("dead letter %s cannot be read: %s", entry_id.decode(), error)
    return found
