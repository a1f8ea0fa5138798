"""Streams at the addresses of other gateways: each address has a router, as long as a stream is followed there."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from gateway.resumption.keeper import KeptStream
from gateway.resumption.record import restored
from gateway.streaming.streams import TokenRouter, TokenStream
from shared.bus import GatewayBus
from shared.errors import BusError
from shared.ids import GatewayId, RequestId
from shared.messages import Attach

_logger = logging.getLogger(__name__)

_LOOK_S: Final = 0.5


@dataclass(slots=True)
class _Follower:
    """What follows one address.

    Attributes:
        attached: Told to the scheduler, for requests that may still run.
    """

    bus: GatewayBus
    router: TokenRouter
    routing: asyncio.Task[None]
    attached: dict[RequestId, Attach] = field(default_factory=dict)


class Followers:
    """Follows streams wherever they were begun, and tells every new leader so.

    Args:
        bus: This gateway's.
        clock: Monotonic seconds.
        epoch: The leading scheduler's term, or None while nobody leads.
    """

    def __init__(self, bus: GatewayBus, clock: Callable[[], float], epoch: Callable[[], int | None]) -> None:
        self._bus = bus
        self._clock = clock
        self._epoch = epoch
        self._followers: dict[GatewayId, _Follower] = {}

    async def follow(
        self, kept: KeptStream, num_choices: int, request_ids: list[RequestId]
    ) -> tuple[TokenStream, TokenRouter]:
        """Go on with a stream; returns it, and the router that owns it until it is closed there.

        Raises:
            BusUnavailableError: Redis does not answer.
        """
        record = kept.record
        stream = restored(record, kept.checkpoints, num_choices, self._clock())
        cursors = kept.checkpoints[-1].cursors if kept.checkpoints else record.cursors
        if kept.is_over:
            return stream, TokenRouter(self._bus, self._clock)
        address = record.gateway_id
        follower = self._followers.get(address)
        if follower is None:
            bus = self._bus.follow(address)
            router = TokenRouter(bus, self._clock, cursors)
            follower = self._followers[address] = _Follower(bus, router, asyncio.create_task(router.run()))
        await follower.router.adopt(stream, cursors)
        n = num_choices // len(request_ids)
        for i, request_id in enumerate(request_ids):
            choices = stream.choices[i * n : (i + 1) * n]
            if not all(choice.is_finished for choice in choices):
                attach = Attach(
                    request_id=request_id,
                    follower=self._bus.gateway_id,
                    gateway_id=address,
                    handle=choices[0].handle,
                    num_choices=n,
                )
                follower.attached[request_id] = attach
                await self._bus.attach(attach)
        return stream, follower.router

    def fail_all(self, status: int, message: str) -> None:
        """End every stream that is followed with an error."""
        for follower in self._followers.values():
            follower.router.fail_all(status, message)

    async def run(self) -> None:
        """Attach again to what every new leader takes over, and end what is no longer needed, until cancelled."""
        epoch = self._epoch()
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                for address, follower in list(self._followers.items()):
                    if follower.router.is_idle:
                        await self._drop(address)
                if (now := self._epoch()) not in {None, epoch} and await self._attach_again():
                    epoch = now
        finally:
            for address in list(self._followers):
                await self._drop(address)

    async def _attach_again(self) -> bool:
        try:
            for follower in self._followers.values():
                for request_id, attach in list(follower.attached.items()):
                    if follower.router.is_open(attach.handle):
                        await self._bus.attach(attach)
                    else:
                        del follower.attached[request_id]
        except BusError as error:
            _logger.warning("the new leader could not be told whose streams are followed here: %s", error)
            return False
        return True

    async def _drop(self, address: GatewayId) -> None:
        follower = self._followers.pop(address)
        follower.routing.cancel()
        with suppress(asyncio.CancelledError):
            await follower.routing
        await follower.bus.close()
