"""The scheduler's inbox on Redis: two streams read by one consumer group, as one ordered list of messages.

An entry is pending from its delivery until it is finished, whoever received it. Two ways lead to an entry that nobody
works on: a cancelled or broken read, whose command may come to the server at any later time, and a former leader that
was still waiting when an entry came. So once a second those of others are taken over, and if there are more pending for
us than are in our hands, all of ours are read again.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping

import redis

from shared.bus import Delivery
from shared.dead_letters import Case, decode_record
from shared.errors import BusUnavailableError, MessageError
from shared.kept_outputs import addresses_of
from shared.keys import GROUP, PoolKeys
from shared.messages import Inbound, Submit, decode_inbound
from shared.redis_bus.connecting import Argument, block
from shared.redis_bus.connection import AsyncConnection
from shared.redis_bus.scripts import ADOPT, FINISH
from shared.usage import HOUR_S, RECORDS_KEPT, USAGE_TTL_S, UsageRecord, encode_usage, sums_of

_log = logging.getLogger(__name__)

_PAGE = 256
_ADOPTION_INTERVAL_S = 1.0
_FORGET_CONSUMER_MS = 900_000
_SIGNS_OF_A_LOST_GROUP = ("NOGROUP", "UNBLOCKED", "no such key")

_Entry = tuple[bytes, list[bytes] | None]


class RedisInbox:
    """Reads `req` and `ctl` for one scheduler.

    Args:
        name: This consumer, the name under which the lease is held.
    """

    def __init__(self, url: str, keys: PoolKeys, name: str, commands: AsyncConnection) -> None:
        self._keys = keys
        self._name = name
        self._commands = commands
        self._reader = AsyncConnection(url, f"{name}-inbox")
        self._held: dict[str, set[str]] = {name: set() for name in self._streams}
        self._must_reread = False
        self._next_adoption = 0.0

    @property
    def _streams(self) -> dict[str, str]:
        return {"req": self._keys.requests, "ctl": self._keys.control}

    async def create_groups(self) -> None:
        """Make the streams and their groups, from the first entry on; those that exist are left alone."""
        for stream in self._streams.values():
            try:
                await self._commands.call("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def recover(self) -> list[Delivery]:
        """All that was delivered to anybody and is not finished, oldest first."""
        for held in self._held.values():
            held.clear()
        await self._adopt()
        found = await self._reread()
        cases = await self._cases()
        kept = await asyncio.gather(*(self._kept_of(delivery.message) for delivery in found))
        return [
            delivery._replace(case=cases.get(delivery.entry), kept=parts)
            for delivery, parts in zip(found, kept, strict=True)
        ]

    async def receive(self, timeout_s: float) -> list[Delivery]:
        """New entries; empty after the timeout."""
        try:
            return await self._receive(timeout_s)
        except BusUnavailableError:
            self._must_reread = True  # what a lost reply brought is pending already
            return await self._receive(timeout_s)

    async def _receive(self, timeout_s: float) -> list[Delivery]:
        if time.monotonic() >= self._next_adoption:
            await self._adopt()
        if self._must_reread and (found := await self._reread()):
            return found
        return await self._read_new(timeout_s)

    async def finish(self, entries: Iterable[str], usage: Mapping[str, UsageRecord]) -> None:
        """Acknowledge and delete, and count what was used."""
        arguments: dict[str, list[Argument]] = {}
        done = list(entries)
        for entry in done:
            stream, _, entry_id = entry.partition(":")
            arguments.setdefault(stream, []).extend([entry_id, *_charge(usage.get(entry))])
        hour = self._keys.usage(int(time.time()) // HOUR_S)
        for stream, rest in arguments.items():
            keys = [self._streams[stream], self._keys.cases, hour, self._keys.usage_log]
            await self._commands.run(FINISH, keys, GROUP, stream, USAGE_TTL_S, RECORDS_KEPT, *rest)
            self._held[stream].difference_update(done)

    async def close(self) -> None:
        """Disconnect."""
        await self._reader.close()

    async def _read_new(self, timeout_s: float) -> list[Delivery]:
        names, streams = list(self._streams), list(self._streams.values())
        command = ("XREADGROUP", "GROUP", GROUP, self._name, "COUNT", _PAGE, *block(timeout_s))
        command += ("STREAMS", *streams, ">", ">")
        self._must_reread = True  # until the reply is here: what it brings is pending already
        try:
            reply = await self._reader.call(*command, wait_s=timeout_s)
        except redis.ResponseError as error:
            await self._replace_lost_groups(error)
            reply = await self._reader.call(*command, wait_s=timeout_s)
        self._must_reread = False
        found: list[Delivery] = []
        for stream, entries in reply or ():
            found += self._deliver(names[streams.index(stream.decode())], entries)
        return found

    async def _adopt(self) -> None:
        self._next_adoption = time.monotonic() + _ADOPTION_INTERVAL_S
        for name, stream in self._streams.items():
            try:
                keys = [stream, self._keys.lead]
                num_ours = await self._commands.run(ADOPT, keys, GROUP, self._name, _FORGET_CONSUMER_MS)
                if num_ours > len(self._held[name]):
                    self._must_reread = True
            except redis.ResponseError as error:
                await self._replace_lost_groups(error)

    async def _replace_lost_groups(self, error: redis.ResponseError) -> None:
        """Make the groups again if that is what the error is about: Redis has lost its data."""
        if not any(sign in str(error) for sign in _SIGNS_OF_A_LOST_GROUP):
            raise error
        await self.create_groups()

    async def _reread(self) -> list[Delivery]:
        """Our pending entries that are not in our hands, the adopted ones among them."""
        pages: list[tuple[str, list[_Entry]]] = []
        for name, stream in self._streams.items():
            last: Argument = "0"
            while entries := await self._own_pending(stream, last):
                pages.append((name, entries))
                last = entries[-1][0]
        self._must_reread = False
        return [delivery for name, entries in pages for delivery in self._deliver(name, entries)]

    async def _cases(self) -> dict[str, Case]:
        """What earlier leaders held against requests. A case that cannot be read is forgotten."""
        fields = await self._commands.call("HGETALL", self._keys.cases, is_repeatable=True)
        cases = {}
        for entry, data in zip(fields[::2], fields[1::2], strict=True):
            try:
                cases[entry.decode()] = decode_record(data, Case)
            except MessageError as error:
                _log.warning("the case of %s cannot be read: %s", entry.decode(), error)
        return cases

    async def _kept_of(self, message: Inbound | None) -> tuple[bytes, ...]:
        """What earlier leaders have kept of a request's outputs."""
        if not isinstance(message, Submit):
            return ()
        keys = map(self._keys.output, addresses_of(message))
        return tuple(data or b"" for data in await self._commands.call("MGET", *keys, is_repeatable=True))

    async def _own_pending(self, stream: str, after: Argument) -> list[_Entry]:
        command = ("XREADGROUP", "GROUP", GROUP, self._name, "COUNT", _PAGE, "STREAMS", stream, after)
        reply = await self._commands.call(*command, is_repeatable=True)
        entries: list[_Entry] = reply[0][1] if reply else []
        return entries

    def _deliver(self, stream: str, entries: list[_Entry]) -> list[Delivery]:
        found = []
        for entry_id, fields in entries:
            entry = f"{stream}:{entry_id.decode()}"
            if entry in self._held[stream]:
                continue
            self._held[stream].add(entry)
            data = fields[1] if fields else b""
            try:
                found.append(Delivery(entry, decode_inbound(data)))
            except MessageError as error:
                found.append(Delivery(entry, None, str(error), data))
        return found


def _charge(record: UsageRecord | None) -> list[Argument]:
    """What `finish.lua` reads of one entry's usage."""
    if record is None:
        return ["", 0]
    sums = sums_of(record)
    return [encode_usage(record), len(sums), *(word for name, count in sums.items() for word in (name, count))]
