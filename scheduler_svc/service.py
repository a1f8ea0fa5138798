"""The scheduler's shell: carries events from the bus to the core, and plans from the core to the bus.

One term of leadership:

1. `acquire_lease` gives the epoch; until then this process is a standby.
2. Every result stream of the pool is sealed with the new epoch: earlier leaders' plans and earlier workers' results are
   refused from here on, and workers come back under new names.
3. The sealed logs say what every client has been told; unfinished requests go on from there.
4. Events in, plans out, until the lease is lost or the process is told to stop.
"""

import asyncio
import logging
from collections.abc import Callable

from scheduler_svc.fault_writer import FaultWriter
from scheduler_svc.recovery import CommittedOutputs
from scheduler_svc.scheduler import Scheduler
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.watch import Watch
from shared.bus import HEARTBEAT_INTERVAL_S, Delivery, SchedulerBus
from shared.errors import BusUnavailableError, LeaseLostError, PlanError
from shared.ids import BEFORE_FIRST_STEP, Epoch, StepId, WorkerId
from shared.messages import Cancel, StepResult, Submit, WorkerBye, WorkerCapabilities, WorkerHello

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

    def stop(self) -> None:
        """Resign and return from `run`, soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Lead whenever nobody else does, until `stop`. Every term has an epoch of its own."""
        last_epoch = None
        while not self._stopping.is_set():
            try:
                epoch = await self._bus.acquire_lease()
                if epoch is not None and epoch == last_epoch:
                    await self._bus.resign()  # the lease outlived its term
                    continue
                if epoch is not None:
                    last_epoch = epoch
                    await Term(self._bus, self._settings, epoch, clock=self._clock, stopping=self._stopping).run()
            except* LeaseLostError as lost:
                log.warning("no longer leading: %s", lost.exceptions)
            except* BusUnavailableError as unavailable:
                log.warning("the bus does not answer: %s", unavailable.exceptions)
            await self._pause(_RETRY_S)
        try:
            await self._bus.resign()
        except BusUnavailableError as error:
            log.warning("could not resign, the lease will run out: %s", error)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


class Term:
    """One term of leadership: a core, and the tasks that feed it."""

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
        self._core = Scheduler(epoch)
        self._faults = FaultWriter(epoch)
        self._watch = Watch(settings)
        self._work = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._dead: set[WorkerId] = set()
        self._handled: list[str] = []

    async def run(self) -> None:
        """Lead until stopped.

        Raises:
            ExceptionGroup: with LeaseLostError, another scheduler leads; with BusUnavailableError, Redis went away and
                whether we still lead is unknown.
        """
        async with self._tasks:
            await self._take_over()
            for job in (self._receive, self._send, self._keep_watch):
                self._tasks.create_task(job())

    async def _take_over(self) -> None:
        outputs = CommittedOutputs()
        for writer in await self._bus.writers():
            self._dead.add(writer)
            await self._bus.seal(writer, self._epoch)
            after = BEFORE_FIRST_STEP
            while entries := await self._bus.read_results(writer, after, timeout_s=0):
                outputs.add(entry.result for entry in entries if entry.result)
                after = entries[-1].step
        for delivery in await self._bus.recover():
            self._handle(delivery, outputs)
        log.info("leading with epoch %d, %d requests taken over", self._epoch, self._core.num_requests)
        self._work.set()

    async def _receive(self) -> None:
        while not self._stopping.is_set():
            for delivery in await self._bus.receive(timeout_s=_READ_TIMEOUT_S):
                self._handle(delivery, None)
            self._work.set()

    def _handle(self, delivery: Delivery, outputs: CommittedOutputs | None) -> None:
        match delivery.message:
            case Submit() as submit:
                progress = (outputs or CommittedOutputs()).progress_of(submit)
                self._core.submit(submit, entry=delivery.entry, progress=progress)
                return
            case Cancel() as cancel:
                self._core.cancel(cancel)
            case WorkerHello() as hello:
                self._welcome(hello.worker_id, hello.capabilities)
            case WorkerBye() as bye:
                self._dismiss(bye.worker_id, "it said goodbye", level=logging.INFO)
            case None:
                log.error("dropped an undecodable message %s: %s", delivery.entry, delivery.error)
        self._handled.append(delivery.entry)

    def _welcome(self, worker_id: WorkerId, capabilities: WorkerCapabilities) -> None:
        if worker_id in self._dead or worker_id in self._core.workers:
            return
        log.info("worker %s joins: %s", worker_id, capabilities)
        self._core.add_worker(worker_id, capabilities)
        self._watch.welcome(worker_id, now_s=self._clock())
        self._tasks.create_task(self._read(worker_id))
        self._work.set()

    def _dismiss(self, worker_id: WorkerId, reason: str, *, level: int = logging.WARNING) -> None:
        """Declare a worker dead. Its reader drains the log up to the seal, and then its sequences move on."""
        if worker_id in self._dead or worker_id not in self._core.workers:
            return
        log.log(level, "worker %s leaves: %s", worker_id, reason)
        self._dead.add(worker_id)
        self._core.suspend_worker(worker_id)
        self._tasks.create_task(self._bus.seal(worker_id, self._epoch))

    async def _read(self, worker_id: WorkerId) -> None:
        after = BEFORE_FIRST_STEP
        while not self._stopping.is_set():
            for step, result in await self._bus.read_results(worker_id, after, timeout_s=_READ_TIMEOUT_S):
                after = step
                if result is None:
                    moved = self._core.remove_worker(worker_id)
                    log.info("worker %s is gone, %d sequences move on", worker_id, moved)
                    self._work.set()
                    return
                self._complete(worker_id, step, result)
            self._work.set()

    def _complete(self, worker_id: WorkerId, step: StepId, result: StepResult) -> None:
        try:
            self._core.complete(worker_id, step, result)
        except PlanError as error:
            self._dismiss(worker_id, str(error))

    async def _send(self) -> None:
        while not self._stopping.is_set():
            try:
                # Not `wait_for`: before Python 3.12 it forgets a cancellation that comes with the event.
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    await self._work.wait()
            except TimeoutError:
                continue
            self._work.clear()
            for worker_id in list(self._core.workers):
                await self._send_plans(worker_id)
            await self._tell_outcomes()

    async def _send_plans(self, worker_id: WorkerId) -> None:
        while planned := self._core.next_plan(worker_id, now_s=self._clock()):
            step, plan = planned
            try:
                await self._bus.send_plan(worker_id, step, plan)
            except LeaseLostError:
                if worker_id in self._dead:
                    return  # our own seal came first
                raise

    async def _tell_outcomes(self) -> None:
        outcomes = self._core.take_outcomes()
        if outcomes.faults:
            await self._bus.emit(self._faults.writer_id, *self._faults.entry(outcomes.faults))
        handled, self._handled = self._handled, []
        if outcomes.finished or handled:
            await self._bus.finish([*outcomes.finished, *handled])

    async def _keep_watch(self) -> None:
        while not self._stopping.is_set():
            if await self._bus.acquire_lease() != self._epoch:
                raise LeaseLostError(f"epoch {self._epoch} is over")
            now_s = self._clock()
            workers = await self._bus.workers()
            for worker_id, status in workers.items():
                self._welcome(worker_id, status.capabilities)
            for worker_id, reason in self._watch.dead_workers(self._core, set(workers), now_s=now_s):
                self._dismiss(worker_id, reason)
            live = await self._bus.live_gateways(self._core.gateways())
            for gateway_id in self._watch.lost_gateways(self._core, live, now_s=now_s):
                orphans = self._core.cancel_gateway(gateway_id)
                log.warning("gateway %s is gone, %d requests cancelled", gateway_id, orphans)
            await self._bus.publish_status(self._watch.pool_status(self._core, now_s=now_s))
            self._work.set()
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
