"""From the bus to the request that waits: one feed per gateway process, and the log where the feed has lost something.

What is new, repeated or missing is decided in `gap`, and what is done about it in `routing`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec

from gateway.streaming.gap import QUIET_S, ChoiceStream, Cursors
from gateway.streaming.routing import ListWriters, ReadLog, Routing
from gateway.streaming.token_logprobs import TokenLogprobs
from shared.bus import GatewayBus
from shared.errors import BusError
from shared.ids import Handle, StepId, WorkerId
from shared.messages import Cancel, Fault
from shared.sampling import FinishCode

_logger = logging.getLogger(__name__)

RESUMED_ELSEWHERE: Final = "another connection has resumed this stream"

_RETRY_S: Final = 0.5
_CANCEL_ATTEMPTS: Final = 5
_LAST_CANCELS_S: Final = 0.5
"""At the end, how long cancels that are under way are waited for: the scheduler will miss us and cancel by itself."""


OnNews = Callable[[], bool]
"""Takes news in the call that brings them. Whether it wants to be called again."""


class ChoiceDelta(msgspec.Struct, frozen=True, gc=False):
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
    """The choices of one API call, for the one task that waits for them.

    Attributes:
        first_handle: The handle of the first choice; the others follow.
    """

    def __init__(self, choices: list[ChoiceStream]) -> None:
        self.choices = tuple(choices)
        self.first_handle = choices[0].handle
        self._changed: dict[int, None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._on_news: OnNews | None = None

    @property
    def has_gap(self) -> bool:
        """Whether later tokens of a choice are here and the next ones are missing."""
        for choice in self.choices:  # noqa: SIM110 - asked for each token, and a third of the time of any()
            if choice.has_gap:
                return True
        return False

    async def wait(self, on_news: OnNews | None = None) -> None:
        """Wait for news.

        Args:
            on_news: Waits on instead, and is called with all news as they come, until it has had enough. What it raises
                is raised here.
        """
        if self._changed and (on_news is None or not on_news()):
            return
        self._waiter = asyncio.get_running_loop().create_future()
        self._on_news = on_news
        await self._waiter

    def choice(self, handle: Handle) -> ChoiceStream:
        """The choice with this handle."""
        return self.choices[handle - self.first_handle]

    def take(self) -> list[ChoiceDelta]:
        """All news there are."""
        changed, self._changed = self._changed, {}
        choices = self.choices
        return [ChoiceDelta(i, *choices[i].take(), choices[i].finish, choices[i].fault) for i in changed]

    def note(self, handle: Handle) -> None:
        """A choice has news, which are told later."""
        self._changed[handle - self.first_handle] = None

    def tell(self) -> None:
        """Tell whoever waits."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        try:
            waits_on = self._on_news is not None and self._on_news()
        except Exception as error:
            waiter.set_exception(error)
        else:
            if not waits_on:
                waiter.set_result(None)


class TokenRouter:
    """Takes every token of this gateway from the bus to its stream, exactly once and in order: the shell of `Routing`.

    Invariant: `_streams` holds each handle of each open stream, and nothing else.
    """

    def __init__(
        self, bus: GatewayBus, clock: Callable[[], float], cursors: Mapping[WorkerId, StepId] | None = None
    ) -> None:
        """Start with no stream.

        Args:
            bus: Where tokens come from.
            clock: Monotonic seconds.
            cursors: By writer, where in the logs to begin; at their beginning if it is not there.
        """
        self._bus = bus
        self._clock = clock
        self._streams: dict[Handle, TokenStream] = {}
        self._routing = Routing(cursors)
        self._reading = asyncio.Lock()
        self._cancels: set[asyncio.Task[None]] = set()
        self._can_read_logs = True

    @property
    def cursors(self) -> Cursors:
        """By writer, up to where its log is in the streams, but for those that have a gap."""
        return self._routing.cursors

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open."""
        return not self._streams

    def is_open(self, handle: Handle) -> bool:
        """Whether a stream has this handle."""
        return handle in self._streams

    def open(self, num_choices: int) -> TokenStream:
        """A stream with that many choices, whose handles are consecutive and have not been used for long."""
        stream = TokenStream(self._routing.open(num_choices, self._clock()))
        self._streams.update((choice.handle, stream) for choice in stream.choices)
        return stream

    async def adopt(self, stream: TokenStream, cursors: Mapping[WorkerId, StepId]) -> None:
        """Go on with a stream under the handles it has, and catch up with the logs if they can be read now.

        Args:
            stream: Another stream that has these handles ends with an error.
            cursors: By writer, up to where its log is in the stream.
        """
        for choice in stream.choices:
            self._routing.fail(choice.handle, Fault(choice.handle, HTTPStatus.CONFLICT, RESUMED_ELSEWHERE))
        self._notify()
        self._streams.update((choice.handle, stream) for choice in stream.choices)
        self._routing.adopt(stream.choices, cursors)
        await self._read()

    def close(self, stream: TokenStream) -> None:
        """Forget a stream. Tokens that still come for it are dropped."""
        handles = [choice.handle for choice in stream.choices if self._streams.get(choice.handle) is stream]
        self._routing.close(handles)
        for handle in handles:
            del self._streams[handle]

    def cancel(self, message: Cancel) -> None:
        """Tell the scheduler, without waiting for it, that tokens are not wanted."""
        task = asyncio.get_running_loop().create_task(self._send_cancel(message))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    def fail_all(self, status: int, message: str) -> None:
        """End every open stream with an error."""
        for handle in list(self._streams):
            self._routing.fail(handle, Fault(handle, status, message))
        self._notify()

    def check(self) -> None:
        """Assert that nothing is open and nothing under way.

        Raises:
            AssertionError: a stream has not been closed or a cancel has not been sent.
        """
        assert not self._streams, f"handles {sorted(self._streams)} were never closed"
        assert not self._cancels, f"{len(self._cancels)} cancels are still being sent"

    async def read_logs(self) -> None:
        """Apply whatever the logs hold beyond what has been read, if the bus answers."""
        self._routing.read_all()
        await self._read()

    async def run(self) -> None:
        """Route tokens and watch for silence until cancelled; cancels under way are still sent if that goes quickly."""
        try:
            await self.read_logs()  # what stood in the logs before is passed over
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
                self._routing.receive(batch, self._clock())
                self._notify()
                await self._read()
                # A batch that has come already is given without a wait, and what is written is sent in the next turn.
                await asyncio.sleep(0)
        finally:
            if isinstance(feed, AsyncGenerator):
                await feed.aclose()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(QUIET_S)
            self._routing.watch(self._clock())
            await self._read()

    async def _read(self) -> None:
        """Read of the logs what is missing."""
        async with self._reading:
            try:
                while read := self._routing.next_read():
                    await self._answer(read)
                    self._notify()
            except BusError as error:
                self._routing.give_up()
                if self._can_read_logs:
                    _logger.warning("the logs of tokens cannot be read: %s", error)
                self._can_read_logs = False

    async def _answer(self, read: ReadLog | ListWriters) -> None:
        match read:
            case ReadLog(writer, after):
                read_to, batches = await self._bus.backfill(writer, after)
                self._routing.take_log(writer, read_to, batches, self._clock())
            case ListWriters():
                self._routing.take_writers(await self._bus.writers())
        self._can_read_logs = True

    def _notify(self) -> None:
        told: dict[TokenStream, None] = {}
        for handle in self._routing.take_changed():
            stream = self._streams[handle]
            stream.note(handle)
            told[stream] = None
        for stream in told:
            stream.tell()

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
