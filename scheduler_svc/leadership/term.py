"""One term of leadership, decided without I/O: events and the time in, effects out.

1. It begins with the writers of the past. Each is sealed with the new epoch: earlier leaders' plans and earlier
   workers' results are refused from here on, and workers come back under new names.
2. What earlier leaders did not finish is collected. The sealed logs say what its clients have been told, and are read.
3. Unfinished requests are taken over, and go on from there; then comes what has come meanwhile.
4. For a moment it waits for workers that are about to come back with what they have in their caches.
5. Messages, results and looks at who lives come in; plans, seals, faults and ends go out, until the lease is lost.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Final

from scheduler_svc.accounting.occupancy import kv_cache_usage
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
from scheduler_svc.leadership.fault_writer import FaultWriter
from scheduler_svc.leadership.inheritance import Inheritance
from scheduler_svc.leadership.recovery import CommittedOutputs
from scheduler_svc.leadership.reunion import Reunion
from scheduler_svc.leadership.unreadable import refusals, unreadable
from scheduler_svc.leadership.watch import Watch
from scheduler_svc.scheduling.outcomes import Outcomes
from scheduler_svc.scheduling.scheduler import KEEP_AFTER, Scheduler
from scheduler_svc.settings import SchedulerSettings
from shared.bus import Delivery, LoggedResult
from shared.errors import PlanError
from shared.held_lease import Sighting
from shared.ids import Epoch, GatewayId, Handle, StepId, WorkerId
from shared.messages import (
    Attach,
    Cancel,
    Fault,
    StepResult,
    Submit,
    WorkerBye,
    WorkerHello,
    WorkerStatus,
)

log = logging.getLogger(__name__)


_MAX_LOGS_AT_ONCE: Final = 8

_GONE: Final = "the request is no longer in the pool: it was cancelled, or given up since nobody followed it"


class Term:
    """A core, what feeds it, and what is to be done about it.

    Invariants:
        - a worker's log is followed from its welcome to its seal, and nothing of it moves on before;
        - nothing new is handled before everything of the past has been read and taken over;
        - of a log nothing counts that stands behind something unreadable.

    Args:
        epoch: The term's own.
        settings: Timeouts.
        writers: Everyone, dead or alive, whose result stream exists as the term begins.
        unix_s: What makes unix time of the times that the term is told.
        keep_after: As the scheduler's.
    """

    def __init__(
        self,
        epoch: Epoch,
        settings: SchedulerSettings,
        writers: Iterable[WorkerId],
        *,
        unix_s: float = 0.0,
        keep_after: int = KEEP_AFTER,
    ) -> None:
        self.epoch = epoch
        self._core = Scheduler(epoch, keep_after=keep_after)
        self._faults = FaultWriter(epoch)
        self._watch = Watch(settings)
        self._detector = FailureDetector()
        self._unread = deque(writers)
        self._reunion = Reunion(self._unread)
        self._heard: set[WorkerId] = set()
        self._sealed = set(self._unread)
        self._being_read: set[WorkerId] = set()
        self._inheritance: Inheritance | None = None
        self._early: list[Delivery] = []
        self._is_leading = False
        self._unix_s = unix_s
        self._now_ms = 0
        self._deaths: dict[WorkerId, str] = {}
        self._unreadable: set[WorkerId] = set()
        self._handled: list[str] = []
        self._refusals: list[tuple[GatewayId, Fault]] = []
        self._unknown: list[Attach] = []
        self._due: deque[Effect] = deque([*map(Seal, self._unread), TakeOver()])

    @property
    def is_idle(self) -> bool:
        """Whether it leads, nothing of a request is left, and no block is held."""
        return self._is_leading and not self._core.num_requests and not kv_cache_usage(self._core.workers.values())

    def gateways(self) -> set[GatewayId]:
        """Those that have requests here."""
        return self._core.gateways()

    def workers(self) -> list[WorkerId]:
        """Those that have a part in it or are about to, as far as is known."""
        present = [worker_id for worker_id in self._core.workers if worker_id not in self._sealed]
        return [*present, *self._reunion.missing]

    def take_over(self, deliveries: Iterable[Delivery]) -> None:
        """Go on with what earlier leaders did not finish, as soon as the logs have been read. Comes once."""
        self._inheritance = Inheritance(deliveries)
        if not self._inheritance.has_requests:
            self._unread.clear()
        self._read_on()

    def receive(self, deliveries: Iterable[Delivery], *, now_s: float) -> None:
        """Take in new messages; before the past has been read, they wait."""
        self._tell_time(now_s)
        if not self._is_leading:
            self._early += deliveries
            return
        for delivery in deliveries:
            self._handle(delivery, None, now_s)

    def read(self, writer: WorkerId, entries: Iterable[LoggedResult]) -> None:
        """Take in what stands next in a log that is followed. Behind a seal there is nothing but later terms' seals."""
        for entry in entries:
            if entry.step.is_seal:
                self._end_of_log(writer)
                break
            if writer in self._unreadable:
                continue
            if entry.result is None:
                self._give_up_reading(writer, entry)
            elif writer in self._core.workers:
                self._complete(writer, entry.step, entry.result)
            elif self._inheritance:
                self._inheritance.read(entry.result)

    def look(self, workers: Mapping[WorkerId, WorkerStatus], gateways: set[GatewayId], *, now_s: float) -> None:
        """Draw conclusions from who lives: all workers, and those of `gateways()`, that have a heartbeat."""
        self._tell_time(now_s)
        self._reunion.look(workers)
        for worker_id in self._heard.intersection(workers):  # whose hello, with all that it tells, has been lost
            self._welcome(WorkerHello(worker_id=worker_id, capabilities=workers[worker_id].capabilities), now_s)
        self._heard = set(workers) if self._is_leading else set()
        for worker_id, reason in self._watch.dead_workers(self._core, set(workers), now_s=now_s):
            self._dismiss(worker_id, reason)
        for gateway_id in self._watch.lost_gateways(self._core, gateways, now_s=now_s):
            orphans = self._core.cancel_gateway(gateway_id)
            log.warning("gateway %s is gone, %d requests cancelled", gateway_id, orphans)
        self._refuse_unknown()
        self._core.keep_outputs()
        if self._is_leading:
            self._due.append(Announce(self._watch.pool_status(self._core, now_s=now_s)))

    def sight(self, sighting: Sighting, *, now_s: float) -> None:
        """Draw conclusions from a look at the leases of `workers()`."""
        for lease in self._detector.crashed(sighting, now_s=now_s):
            self._reunion.strike(WorkerId(lease.holder))
            self._dismiss(WorkerId(lease.holder), "its connection is closed")

    def effects(self, *, now_s: float) -> Iterator[Effect]:
        """What is to be done now, in this order. Each is decided when it is asked for, by what is known then."""
        self._tell_time(now_s)
        self._begin_to_lead(now_s)
        self._core.expire(now_ms=self._now_ms)
        while self._due:
            yield self._due.popleft()
        outcomes = self._core.take_outcomes()
        if outcomes.cases or outcomes.outputs:
            yield Keep(outcomes.cases, outcomes.outputs)
        if self._reunion.is_over(now_s=now_s):
            for worker_id in list(self._core.workers):
                while planned := self._core.next_plan(worker_id, now_s=now_s):
                    yield SendPlan(worker_id, *planned)
        yield from self._tell_ends(outcomes)

    def check(self) -> None:
        """Assert the invariants of everything here."""
        self._core.check()
        assert not (self._is_leading and (self._unread or self._being_read or self._early))

    def _tell_ends(self, outcomes: Outcomes) -> Iterator[Effect]:
        """Faults first: what has been kept as ended, or finished, the next leader takes for told."""
        ended, self._handled = [*outcomes.finished, *self._handled], []
        faults, self._refusals = [*outcomes.faults, *self._refusals], []
        for entry, letter in outcomes.letters.items():
            log.error("request %s is given up: %s", letter.request_id, letter.reason)
            yield Bury(entry, letter)
        if faults:
            yield Emit(self._faults.writer_id, *self._faults.entry(faults))
        if outcomes.ends:
            yield Keep({}, outcomes.ends)
        if ended:
            yield Finish(ended, outcomes.usage, outcomes.dropped)

    def _handle(self, delivery: Delivery, outputs: CommittedOutputs | None, now_s: float) -> None:
        match delivery.message:
            case Submit() as submit:
                progress = (outputs or CommittedOutputs()).progress_of(submit, delivery.kept)
                self._core.submit(submit, entry=delivery.entry, progress=progress, case=delivery.case)
                return
            case Cancel() as cancel:
                self._core.cancel(cancel)
            case Attach() as attach:
                if not self._core.attach(attach):
                    self._unknown.append(attach)
            case WorkerHello() as hello:
                self._welcome(hello, now_s)
            case WorkerBye() as bye:
                self._dismiss(bye.worker_id, bye.error)
            case None:
                self._refuse(delivery)
        self._handled.append(delivery.entry)

    def _refuse_unknown(self) -> None:
        """Tell those who follow a request that is no more. It is looked for twice: its `Submit` may come later."""
        unknown, self._unknown = self._unknown, []
        faults = []
        for attach in unknown:
            if not self._core.attach(attach):
                handles = range(attach.handle, attach.handle + attach.num_choices)
                faults += [(attach.gateway_id, Fault(Handle(handle), HTTPStatus.GONE, _GONE)) for handle in handles]
        if faults:
            self._due.append(Emit(self._faults.writer_id, *self._faults.entry(faults)))

    def _welcome(self, hello: WorkerHello, now_s: float) -> None:
        worker_id = hello.worker_id
        if worker_id in self._sealed or worker_id in self._core.workers:
            return
        log.info("worker %s joins, formerly %s: %s", worker_id, hello.formerly or "nobody", hello.capabilities)
        self._core.add_worker(worker_id, hello.capabilities, hello.cached)
        self._reunion.strike(hello.formerly)
        self._watch.welcome(worker_id, now_s=now_s)
        self._due.append(Follow(worker_id))

    def _refuse(self, delivery: Delivery) -> None:
        """An entry of the inbox that nobody can read becomes a dead letter, and its sender is told if it shows."""
        log.error("message %s cannot be read: %s", delivery.entry, delivery.error)
        letter = unreadable(delivery.entry, delivery.data, delivery.error, at_ms=self._now_ms)
        self._due.append(Bury(delivery.entry, letter))
        self._refusals += refusals(delivery.data, delivery.error)

    def _give_up_reading(self, writer: WorkerId, entry: LoggedResult) -> None:
        """A result that nobody can read was told to nobody: another worker computes it, and what comes after it."""
        log.error("result %s of %s cannot be read: %s", entry.step, writer, entry.error)
        self._unreadable.add(writer)
        source = f"res:{writer}:{entry.step}"
        self._due.append(Bury(source, unreadable(source, entry.data, entry.error, at_ms=self._now_ms)))
        self._dismiss(writer, f"its result {entry.step} cannot be read", is_death=False)

    def _tell_time(self, now_s: float) -> None:
        self._now_ms = int((now_s + self._unix_s) * 1000)

    def _dismiss(self, worker_id: WorkerId, reason: str, *, is_death: bool = True) -> None:
        """Let go of a worker, for a reason or as it wants. Its log is read to the seal; then its sequences move on."""
        if worker_id in self._sealed or worker_id not in self._core.workers:
            return
        log.log(logging.WARNING if reason else logging.INFO, "worker %s leaves: %s", worker_id, reason or "on purpose")
        if is_death:
            self._deaths[worker_id] = reason
        self._core.suspend_worker(worker_id)
        self._sealed.add(worker_id)
        self._due.append(Seal(worker_id))

    def _complete(self, worker_id: WorkerId, step: StepId, result: StepResult) -> None:
        try:
            self._core.complete(worker_id, step, result)
        except PlanError as error:
            self._dismiss(worker_id, str(error))

    def _end_of_log(self, writer: WorkerId) -> None:
        if writer in self._core.workers:
            moved = self._core.remove_worker(writer, death=self._deaths.pop(writer, ""), now_ms=self._now_ms)
            log.info("worker %s is gone, %d sequences move on", writer, moved)
        else:
            self._being_read.remove(writer)
            self._read_on()

    def _read_on(self) -> None:
        while self._unread and len(self._being_read) < _MAX_LOGS_AT_ONCE:
            writer = self._unread.popleft()
            self._being_read.add(writer)
            self._due.append(Follow(writer))

    def _begin_to_lead(self, now_s: float) -> None:
        """Once everything of the past has been read."""
        past = self._inheritance
        if self._is_leading or past is None or self._unread or self._being_read:
            return
        self._is_leading, self._inheritance = True, None
        if not past.has_requests:
            self._reunion.call_off()
        for delivery in past.deliveries:
            self._handle(delivery, past.outputs, now_s)
        log.info("leading with epoch %d, %d requests taken over", self.epoch, self._core.num_requests)
        early, self._early = self._early, []
        self.receive(early, now_s=now_s)
