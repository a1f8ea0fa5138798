"""Requests that were accepted and have not ended here. Redis may lose them; then they are submitted again.

Two signs of a loss: a request has been quiet for a while, and its entry is gone although no log holds its end; or a
new term of leadership began on another server process, a replica perhaps, whose logs may end before what was told here.
What is submitted again says what its client has been told: the pool goes on behind that and tells nothing twice.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.streaming.gap import ChoiceStream
from gateway.streaming.streams import TokenRouter
from shared.bus import GatewayBus
from shared.errors import BusError
from shared.ids import RequestId
from shared.messages import Submit, Told
from shared.packing import pack_u32

_logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0


@dataclass(slots=True)
class _Request:
    message: Submit
    choices: Sequence[ChoiceStream]
    entry: str
    was_resubmitted: bool = False

    @property
    def is_open(self) -> bool:
        return any(not choice.is_finished for choice in self.choices)

    def is_quiet(self, now_s: float) -> bool:
        return self.is_open and all(choice.is_finished or choice.is_quiet(now_s) for choice in self.choices)

    def again(self) -> Submit:
        """The message, with what has been told meanwhile."""
        told = tuple(Told(pack_u32(choice.output), choice.is_finished) for choice in self.choices)
        return msgspec.structs.replace(self.message, told=told)


class InFlightRequests:
    """Submits requests, and submits them again for as long as they are not forgotten.

    Args:
        router: Reads the logs before a request is taken for lost.
        epoch: Of the leading scheduler's term, as far as is known.
        clock: Monotonic seconds, the router's.
    """

    def __init__(
        self,
        bus: GatewayBus,
        router: TokenRouter,
        *,
        epoch: Callable[[], int | None],
        clock: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._router = router
        self._epoch = epoch
        self._clock = clock
        self._requests: dict[RequestId, _Request] = {}
        self._last_epoch: int | None = None
        self._incarnation: str | None = None

    async def submit(self, message: Submit, choices: Sequence[ChoiceStream], *, max_requests: int) -> None:
        """Send a request and remember it.

        Raises:
            QueueFullError: the pool is full.
            BusUnavailableError: Redis does not answer.
        """
        entry = await self._bus.submit(message, max_requests=max_requests)
        self._requests[message.request_id] = _Request(message, choices, entry)

    def forget(self, request_id: RequestId) -> bool:
        """A request is over for us. Says whether it was submitted again: then it may run twice, one after the other."""
        request = self._requests.pop(request_id, None)
        return request is not None and request.was_resubmitted

    async def run(self) -> None:
        """Look for losses until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                await self.restore()
            except BusError as error:
                _logger.debug("requests in flight cannot be looked for: %s", error)

    async def restore(self) -> None:
        """Submit again what the bus may have lost.

        Raises:
            BusUnavailableError: Redis does not answer; nothing is forgotten by that.
        """
        epoch, incarnation = await self._pool_now()
        if self._incarnation not in {None, incarnation}:
            suspects = list(self._requests.values())
        else:
            suspects = await self._without_entry()
        if suspects:
            await self._router.read_logs()  # an end that stands there is no loss
        for request in suspects:
            if request.is_open and request.message.request_id in self._requests:
                _logger.warning("request %s may be lost, submitting it again", request.message.request_id)
                request.was_resubmitted = True
                request.entry = await self._bus.resubmit(request.again())
        self._last_epoch, self._incarnation = epoch, incarnation

    async def _pool_now(self) -> tuple[int | None, str | None]:
        """Asks for the server only at the beginning of a term: losses of its data begin one."""
        epoch = self._epoch()
        if epoch in {None, self._last_epoch}:
            return self._last_epoch, self._incarnation
        return epoch, await self._bus.incarnation()

    async def _without_entry(self) -> list[_Request]:
        now_s = self._clock()
        quiet = {request.entry: request for request in self._requests.values() if request.is_quiet(now_s)}
        missing = await self._bus.missing(list(quiet)) if quiet else set()
        return [request for entry, request in quiet.items() if entry in missing]
