"""From the bus to the request that waits: one feed per gateway process, and the log where the feed has lost something.

Owns the handles, and the order of tokens within each choice. What is new, repeated or missing is decided in `gap`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Final, NamedTuple

from gateway.streaming.gap import QUIET_S, ChoiceStream, Order, WriterCursors, items_of
from gateway.streaming.token_logprobs import TokenLogprobs
from shared.bus import GatewayBus
from shared.errors import BusError
from shared.ids import Handle, WorkerId
from shared.messages import Cancel, Fault, TokenBatch
from shared.sampling import FinishCode

_logger = logging.getLogger(__name__)

_NUM_HANDLES: Final = 2**32
_RETRY_S: Final = 0.5
_CANCEL_ATTEMPTS: Final = 5
_LAST_CANCELS_S: Final = 0.5
"""At the end, how long cancels that are under way are waited for: the scheduler will miss us and cancel by itself."""


class ChoiceDelta(NamedTuple):
    """What one choice got since it was last looked at.

    Attributes:
        choice: Its place among the choices of its stream.
        logprobs: Of each token, if the request asks for them.
        finish: RUNNING, or how it ended with these tokens.
        fault: Why, if it ended with an error.
    """

    choice: int
    tokens: list[int]
    logprobs: list[TokenLogprobs]
    finish: FinishCode
    fault: Fault | None


class TokenStream:
    """The choices of one API call, for the one task that waits for them."""

    def __init__(self, choices: list[ChoiceStream]) -> None:
        self.choices = tuple(choices)
        self._changed: dict[int, None] = {}
        self._waiter: asyncio.Future[None] | None = None

    @property
    def first_handle(self) -> Handle:
        """The handle of the first choice; the others follow."""
        return self.choices[0].handle

    async def next(self) -> list[ChoiceDelta]:
        """Wait for news, and return all there is."""
        while not self._changed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        changed, self._changed = self._changed, {}
        choices = self.choices
        return [ChoiceDelta(i, *choices[i].take(), choices[i].finish, choices[i].fault) for i in changed]

    def notify(self, handle: Handle) -> None:
        """Say that a choice has news."""
        self._changed[handle - self.first_handle] = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class TokenRouter:
    """Takes every token of this gateway from the bus to its stream, exactly once and in order.

    Invariant: `_streams` holds each handle of each open stream, and nothing else.
    """

    def __init__(self, bus: GatewayBus, clock: Callable[[], float]) -> None:
        """Start with no stream.

        Args:
            bus: Where tokens come from.
            clock: Monotonic seconds.
        """
        self._bus = bus
        self._clock = clock
        self._streams: dict[Handle, TokenStream] = {}
        self._cursors = WriterCursors()
        self._applying = asyncio.Lock()
        self._next_handle = 0
        self._cancels: set[asyncio.Task[None]] = set()
        self._can_read_logs = True

    def open(self, num_choices: int) -> TokenStream:
        """A stream with that many choices, whose handles are consecutive and have not been used for long."""
        now_s = self._clock()
        first = self._free_handles(num_choices)
        stream = TokenStream([ChoiceStream(Handle(first + i), now_s) for i in range(num_choices)])
        self._streams.update((choice.handle, stream) for choice in stream.choices)
        return stream

    def close(self, stream: TokenStream) -> None:
        """Forget a stream. Tokens that still come for it are dropped."""
        for choice in stream.choices:
            self._streams.pop(choice.handle, None)

    def cancel(self, message: Cancel) -> None:
        """Tell the scheduler, without waiting for it, that tokens are not wanted."""
        task = asyncio.get_running_loop().create_task(self._send_cancel(message))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    def fail_all(self, status: int, message: str) -> None:
        """End every open stream with an error."""
        for handle in list(self._streams):
            self._fail(handle, Fault(handle, status, message))

    def check(self) -> None:
        """Assert that nothing is open and nothing under way.

        Raises:
            AssertionError: a stream has not been closed or a cancel has not been sent.
        """
        assert not self._streams, f"handles {sorted(self._streams)} were never closed"
        assert not self._cancels, f"{len(self._cancels)} cancels are still being sent"

    async def read_logs(self) -> None:
        """Apply whatever the logs hold beyond what has been read. Done once at the start, it passes over the past."""
        async with self._applying:
            try:
                await self._backfill_all()
            except BusError as error:
                if self._can_read_logs:
                    _logger.warning("the logs of tokens cannot be read: %s", error)
                self._can_read_logs = False
            else:
                self._can_read_logs = True

    async def run(self) -> None:
        """Route tokens and watch for silence until cancelled; cancels under way are still sent if that goes quickly."""
        try:
            await self.read_logs()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep(self._follow_feed), name="token feed")
                tasks.create_task(self._keep(self._watch), name="token watchdog")
        finally:
            if self._cancels:
                await asyncio.wait(self._cancels, timeout=_LAST_CANCELS_S)

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work again whenever it fails: the streams depend on it, and what it missed is in the log."""
        while True:
            try:
                await work()
            except Exception:
                _logger.exception("routing tokens failed; trying again in %s s", _RETRY_S)
            await asyncio.sleep(_RETRY_S)

    async def _follow_feed(self) -> None:
        feed = self._bus.feed()
        try:
            async for batch in feed:
                async with self._applying:
                    try:
                        await self._receive(batch)
                    except BusError as error:
                        _logger.warning("a gap in the tokens of %s cannot be filled yet: %s", batch.worker_id, error)
        finally:
            if isinstance(feed, AsyncGenerator):
                await feed.aclose()

    async def _receive(self, batch: TokenBatch) -> None:
        has_gap = self._cursors.order(batch) is Order.AFTER_A_GAP and await self._backfill(batch.worker_id)
        if self._apply(batch) or has_gap:
            await self._backfill_all()

    async def _watch(self) -> None:
        """Read the logs for choices that have been quiet for long: after the last message no other shows its loss."""
        while True:
            await asyncio.sleep(QUIET_S)
            now_s = self._clock()
            if any(choice.is_quiet(now_s) or choice.has_gap for choice in self._open_choices()):
                await self.read_logs()

    async def _backfill_all(self) -> None:
        writers = await self._bus.writers()
        for writer in writers:
            await self._backfill(writer)
        self._cursors.retain(writers)
        for choice in self._open_choices():
            if choice.has_gap:
                message = f"output tokens from {choice.num_tokens} on were lost: no log holds them any more"
                _logger.error("handle %d: %s", choice.handle, message)
                self._fail(choice.handle, Fault(choice.handle, 500, message))

    async def _backfill(self, writer: WorkerId) -> bool:
        """Apply what a writer's log holds above the cursor. Whether some choice now has a gap."""
        cursor = self._cursors.of(writer)
        if cursor.is_seal:
            return False
        read_to, batches = await self._bus.backfill(writer, cursor)
        has_gap = False
        for batch in batches:
            has_gap |= self._apply(batch)
        self._cursors.advance(writer, read_to)
        return has_gap

    def _apply(self, batch: TokenBatch) -> bool:
        """Give a batch's items to their streams, unless that has been done. Whether some choice now has a gap."""
        if self._cursors.order(batch) is Order.SEEN:
            return False
        self._cursors.advance(batch.worker_id, batch.step)
        now_s = self._clock()
        has_gap = False
        for span in batch.prompt_logprobs:
            if stream := self._streams.get(span.handle):
                stream.choices[span.handle - stream.first_handle].accept_prompt(span, now_s)
                stream.notify(span.handle)
        for embedding in batch.embeddings:
            if stream := self._streams.get(embedding.handle):
                stream.choices[embedding.handle - stream.first_handle].embedding = embedding.vector
        for item in items_of(batch):
            if stream := self._streams.get(item.handle):
                choice = stream.choices[item.handle - stream.first_handle]
                choice.accept(item, now_s)
                has_gap |= choice.has_gap
                stream.notify(item.handle)
        for fault in batch.faults:
            self._fail(fault.handle, fault)
        return has_gap

    def _fail(self, handle: Handle, fault: Fault) -> None:
        if stream := self._streams.get(handle):
            stream.choices[handle - stream.first_handle].fail(fault)
            stream.notify(handle)

    def _open_choices(self) -> Iterable[ChoiceStream]:
        return [stream.choices[handle - stream.first_handle] for handle, stream in self._streams.items()]

    def _free_handles(self, num_choices: int) -> int:
        first = self._next_handle
        while True:
            if first + num_choices > _NUM_HANDLES:
                first = 0
            taken = [handle for handle in range(first, first + num_choices) if Handle(handle) in self._streams]
            if not taken:
                self._next_handle = first + num_choices
                return first
            first = taken[-1] + 1

    async def _send_cancel(self, message: Cancel) -> None:
        for attempt in range(1, _CANCEL_ATTEMPTS + 1):
            try:
                await self._bus.cancel(message)
            except BusError as error:
                level = logging.WARNING if attempt == _CANCEL_ATTEMPTS else logging.DEBUG
                _logger.log(level, "cancel of %s failed (attempt %d): %s", message.request_id, attempt, error)
                await asyncio.sleep(_RETRY_S * attempt)
            else:
                return
