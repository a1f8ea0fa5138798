"""Which streams are kept, and what becomes of them when their connection is over."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gateway.resumption.event_id import MAX_CHOICES
from gateway.resumption.journal import StreamJournal
from gateway.resumption.record import Checkpoint, StreamRecord, name_of
from gateway.streaming.gap import Cursors
from gateway.streaming.streams import TokenStream
from shared.archive import Archive, Claim
from shared.errors import BusError, ClaimLostError, NotFoundError, StorageFullError

_logger = logging.getLogger(__name__)

LONGEST_S: Final = 6 * 3600.0
"""How long a stream may take and still be gone on with."""

TTL_S: Final = 300.0
"""How long a stream that has ended can be read again."""

_LAST_WORDS_S: Final = 0.5
"""At the end, how long records that are being written are waited for."""


class KeptStream(NamedTuple):
    """A stream that was kept, under our claim."""

    record: StreamRecord
    claim: Claim
    checkpoints: list[Checkpoint]

    @property
    def is_over(self) -> bool:
        """Whether all of it is here."""
        return bool(self.checkpoints) and self.checkpoints[-1].is_over


class StreamKeeper:
    """Owns the archive of streams.

    Whoever goes on with a stream claims its record. So there is one at a time, and whoever had it before neither
    cancels it nor drops it.

    Args:
        archive: Of streams.
        clock: Monotonic seconds.
        grace_s: How long a request runs on whose client may come back.
    """

    def __init__(self, archive: Archive, clock: Callable[[], float], *, grace_s: float) -> None:
        self._archive = archive
        self._clock = clock
        self._grace_s = grace_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_leaving = False

    async def keep(self, record: StreamRecord, stream: TokenStream, cursors: Cursors) -> StreamJournal | None:
        """Begin to keep a stream that is about to be asked for; None if it cannot be kept.

        Raises:
            RecordExistsError: its idempotency key has been used.
            BusUnavailableError: Redis does not answer.
        """
        if len(stream.choices) > MAX_CHOICES:
            return None
        addressed = msgspec.structs.replace(record, first_handle=stream.first_handle, cursors=cursors.steps)
        try:
            claim = await self._archive.create(name_of(record.stream_id), addressed.encode(), ttl_s=LONGEST_S)
        except StorageFullError as error:
            _logger.warning("%s cannot be resumed: %s", record.stream_id, error)
            return None
        return self._journal(addressed, claim, stream, cursors)

    async def find(self, name: str) -> StreamRecord | None:
        """What is kept under a record's id."""
        data = await self._archive.read(name)
        return None if data is None else StreamRecord.decode(data)

    async def claim(self, stream_id: str, owner: str) -> KeptStream:
        """Take a stream from whoever has it, to go on with it.

        Raises:
            NotFoundError: it was never there, is forgotten, or is somebody else's.
        """
        name = name_of(stream_id)
        record = await self.find(name)
        claim = None
        if record is not None and (record.stream_id, record.owner) == (stream_id, owner):
            claim = await self._archive.seize(name)
        if record is None or claim is None:
            raise NotFoundError(f"there is no stream {stream_id[:80]!r} that could be resumed, or no more")
        checkpoints: list[Checkpoint] = []
        while found := await self._archive.parts(name, len(checkpoints)):
            checkpoints += map(Checkpoint.decode, found)
        return KeptStream(record, claim, checkpoints)

    def resume(self, kept: KeptStream, stream: TokenStream, cursors: Cursors) -> StreamJournal:
        """Go on keeping a stream that was restored."""
        return self._journal(kept.record, kept.claim, stream, cursors, kept.checkpoints)

    def note(self, journal: StreamJournal, *, on_loss: Callable[[], None]) -> None:
        """Save what has come of a stream, if it is time.

        Args:
            journal: The stream's.
            on_loss: Called if another connection has taken the stream.
        """
        if not self._is_leaving and journal.take_if_due():
            self._start(self._save(journal, on_loss))

    def end(self, journal: StreamJournal) -> None:
        """The stream has come to its end, and can be read again for some time."""
        journal.take(is_over=True)
        self._start(self._finish(journal, ttl_s=TTL_S))

    def leave(self, journal: StreamJournal, cancel: Callable[[], None], *, is_broken: bool) -> None:
        """Nobody reads the stream any more, and it has not ended.

        Args:
            journal: The stream's.
            cancel: Tells the pool that its tokens are not wanted. Not called if somebody else goes on with it.
            is_broken: It failed: nobody is to come back to it.
        """
        if self._is_leaving:
            journal.take(is_over=False)
            self._start(self._finish(journal))
        elif journal.is_keyed and not is_broken:
            journal.take(is_over=False)
            self._start(self._wait_for_client(journal, cancel))
        else:
            self._start(self._forget(journal, cancel))

    def hand_over(self) -> None:
        """This gateway ends: from now on streams that are left are left to other gateways."""
        self._is_leaving = True

    async def run(self) -> None:
        """Until cancelled; then what is being kept is kept if that goes quickly, and nobody is waited for any more."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if self._tasks:
                _, late = await asyncio.wait(self._tasks, timeout=_LAST_WORDS_S)
                for task in late:
                    task.cancel()

    def _journal(
        self,
        record: StreamRecord,
        claim: Claim,
        stream: TokenStream,
        cursors: Cursors,
        checkpoints: Sequence[Checkpoint] = (),
    ) -> StreamJournal:
        return StreamJournal(
            self._archive,
            claim,
            is_keyed=record.is_keyed,
            stream=stream,
            cursors=cursors,
            clock=self._clock,
            checkpoints=checkpoints,
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _save(self, journal: StreamJournal, on_loss: Callable[[], None]) -> None:
        if await self._is_lost(journal, journal.save()):
            on_loss()

    async def _finish(self, journal: StreamJournal, *, ttl_s: float | None = None) -> None:
        await self._is_lost(journal, journal.save(ttl_s=ttl_s))

    async def _is_lost(self, journal: StreamJournal, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work; whether it failed since somebody else goes on with the stream."""
        try:
            try:
                await work
            except ClaimLostError:
                # Else the record is gone: it gave way to newer ones.
                return await self._archive.read(journal.claim.record_id) is not None
        except (BusError, StorageFullError) as error:
            _logger.warning("%s cannot be kept: %s", journal.claim.record_id, error)
        return False

    async def _wait_for_client(self, journal: StreamJournal, cancel: Callable[[], None]) -> None:
        if not await self._is_lost(journal, journal.save()):
            await asyncio.sleep(self._grace_s)
            await self._forget(journal, cancel)

    async def _forget(self, journal: StreamJournal, cancel: Callable[[], None]) -> None:
        if not await self._is_lost(journal, journal.forget()):
            cancel()
