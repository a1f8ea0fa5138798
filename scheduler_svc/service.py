"""The scheduler's shell: carries events from the bus to a term of leadership, and its effects to the bus."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from scheduler_svc.leadership.effects import (
    Announce,
    Bury,
    Effect,
    Emit,
    Finish,
    Follow,
    Keep,
    Seal,
    SendPlan,
    TakeOver,
)
from scheduler_svc.leadership.failure_detector import FailureDetector
from scheduler_svc.leadership.term import Term
from scheduler_svc.settings import SchedulerSettings
from shared.bus import HEARTBEAT_INTERVAL_S, SIGHT_INTERVAL_S, SchedulerBus
from shared.errors import BusUnavailableError, LeaseLostError
from shared.ids import BEFORE_FIRST_STEP, Epoch, WorkerId

log = logging.getLogger(__name__)

_READ_TIMEOUT_S = 1.0
_RETRY_S = 0.5


class SchedulerService:
    """Runs terms of leadership until told to stop.

    Args:
        bus: The scheduler's side of the bus.
        settings: Timeouts.
        clock: Monotonic seconds.
    """

    def __init__(self, bus: SchedulerBus, settings: SchedulerSettings, *, clock: Callable[[], float]) -> None:
        self._bus = bus
        self._settings = settings
        self._clock = clock
        self._stopping = asyncio.Event()
        self._detector = FailureDetector()

    def stop(self) -> None:
        """Resign and return from `run`, soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Lead whenever nobody else does, until `stop`. Every term has an epoch of its own."""
        last_epoch = None
        while not self._stopping.is_set():
            try:
                epoch = await self._bus.acquire_lease()
                if epoch is None:
                    await self._stand_by()
                    continue
                if epoch == last_epoch:
                    await self._bus.resign()  # the lease outlived its term
                    continue
                last_epoch = epoch
                await Leader(self._bus, self._settings, epoch, clock=self._clock, stopping=self._stopping).run()
            except* LeaseLostError as lost:
                log.warning("no longer leading: %s", lost.exceptions)
            except* BusUnavailableError as unavailable:
                log.warning("the bus does not answer: %s", unavailable.exceptions)
            await self._pause(_RETRY_S)
        try:
            await self._bus.resign()
        except BusUnavailableError as error:
            log.warning("could not resign, the lease will run out: %s", error)

    async def _stand_by(self) -> None:
        """Wait a little for the lease to be free. It is made so if whoever holds it has crashed."""
        sighting = await self._bus.sight_leader()
        for lease in self._detector.crashed(sighting, now_s=self._clock()):
            log.warning("the leader %s is gone: its connection is closed", lease.holder)
            return await self._bus.depose(lease)
        return await self._pause(SIGHT_INTERVAL_S)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


class Leader:
    """Carries out one term: the tasks that tell it what happens, and the one that does what it wants."""

    def __init__(
        self,
        bus: SchedulerBus,
        settings: SchedulerSettings,
        epoch: Epoch,
        *,
        clock: Callable[[], float],
        stopping: asyncio.Event,
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._epoch = epoch
        self._clock = clock
        self._stopping = stopping
        self._news = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Lead until stopped.

        Raises:
            ExceptionGroup: with LeaseLostError, another scheduler leads; with BusUnavailableError, Redis went away and
                whether we still lead is unknown.
        """
        async with self._tasks:
            unix_s = time.time() - self._clock()
            term = Term(self._epoch, self._settings, await self._bus.writers(), unix_s=unix_s)
            self._news.set()
            self._tasks.create_task(self._act(term))
            self._tasks.create_task(self._keep_watch(term))

    async def _act(self, term: Term) -> None:
        while not self._stopping.is_set():
            try:
                # Not `wait_for`: before Python 3.12 it forgets a cancellation that comes with the event.
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    await self._news.wait()
            except TimeoutError:
                continue
            self._news.clear()
            for effect in term.effects(now_s=self._clock()):
                await self._carry_out(term, effect)

    async def _carry_out(self, term: Term, effect: Effect) -> None:
        match effect:
            case SendPlan(worker, step, plan):
                await self._bus.send_plan(worker, step, plan)
            case Seal(writer):
                await self._bus.seal(writer, self._epoch)
            case Follow(writer):
                self._tasks.create_task(self._follow(term, writer))
            case TakeOver():
                self._tasks.create_task(self._receive(term))
            case Emit(writer, step, result):
                await self._bus.emit(writer, step, result)
            case Keep(cases, outputs):
                await self._bus.keep(cases, outputs)
            case Bury(entry, letter):
                await self._bus.bury(entry, letter)
            case Finish(entries, usage, outputs):
                await self._bus.finish(entries, usage, outputs)
            case Announce(status):
                await self._bus.publish_status(status)

    async def _receive(self, term: Term) -> None:
        term.take_over(await self._bus.recover())
        self._news.set()
        while not self._stopping.is_set():
            term.receive(await self._bus.receive(timeout_s=_READ_TIMEOUT_S), now_s=self._clock())
            self._news.set()

    async def _follow(self, term: Term, writer: WorkerId) -> None:
        after = BEFORE_FIRST_STEP
        while not (after.is_seal or self._stopping.is_set()):
            entries = await self._bus.read_results(writer, after, timeout_s=_READ_TIMEOUT_S)
            if entries:
                after = entries[-1].step
                term.read(writer, entries)
                self._news.set()

    async def _keep_watch(self, term: Term) -> None:
        next_look_s = self._clock()
        while not self._stopping.is_set():
            if await self._bus.acquire_lease() != self._epoch:
                raise LeaseLostError(f"epoch {self._epoch} is over")
            sighting = await self._bus.sight_workers(term.workers())
            now_s = self._clock()
            term.sight(sighting, now_s=now_s)
            if now_s >= next_look_s:
                next_look_s = now_s + HEARTBEAT_INTERVAL_S
                workers = await self._bus.workers()
                gateways = await self._bus.live_gateways(term.gateways())
                term.look(workers, gateways, now_s=now_s)
            self._news.set()
            await asyncio.sleep(SIGHT_INTERVAL_S)
