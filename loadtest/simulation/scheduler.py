"""A simulated scheduler process: what `scheduler_svc.service` does with asyncio, around the same `Term`."""

from loadtest.simulation.kernel import Call, Kernel, Process, Signal, Steps, Task
from loadtest.simulation.redis import INBOX, SimulatedRedis
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
from shared.bus import HEARTBEAT_INTERVAL_S
from shared.errors import BusUnavailableError, LeaseLostError, PagestreamError
from shared.ids import BEFORE_FIRST_STEP, Epoch, WorkerId

_READ_TIMEOUT_S = 1.0
_RETRY_S = 0.5
_KEEP_AFTER = 3
"""Outputs are short here."""

_SIGHT_INTERVAL_S = 0.2
"""Half as often as in truth: what it costs is the simulation's time."""


class SchedulerProcess(Process):
    """Leads whenever nobody else does.

    Attributes:
        term: The one it carries out, if it leads.
    """

    def __init__(self, kernel: Kernel, name: str, redis: SimulatedRedis, settings: SchedulerSettings) -> None:
        super().__init__(kernel, name)
        self.term: Term | None = None
        self._redis = redis
        self._settings = settings
        self._detector = FailureDetector()
        self._news = Signal()
        self._over = Signal()
        self._of_term: list[Task] = []
        self._error: PagestreamError | None = None
        self.start(self._run())

    def failed(self, task: Task, error: PagestreamError) -> None:
        """A task of the term has ended with an error, and with it the term."""
        if not isinstance(error, LeaseLostError | BusUnavailableError) or task not in self._of_term:
            super().failed(task, error)
        if self._error is None:
            self._error = error
            for other in self._of_term:
                other.is_over = True
            self._over.set()

    def _run(self) -> Steps:
        last_epoch: Epoch | None = None
        while True:
            try:
                epoch = yield Call(self._redis.acquire_lease, self.name, self.connection)
                if epoch is None:
                    yield from self._stand_by()
                    continue
                if epoch == last_epoch:
                    yield Call(self._redis.resign, self.name)
                    continue
                last_epoch = epoch
                yield from self._lead(epoch)
            except BusUnavailableError as error:
                self.tell("%s", error)
            yield _RETRY_S

    def _stand_by(self) -> Steps:
        sighting = yield Call(self._redis.sight_leader, self.connection)
        for lease in self._detector.crashed(sighting, now_s=self.kernel.now_s):
            self.tell("deposes %s", lease.holder)
            yield Call(self._redis.depose, lease)
            return
        yield _SIGHT_INTERVAL_S

    def _lead(self, epoch: Epoch) -> Steps:
        writers = yield Call(self._redis.writers)
        self.tell("leads with epoch %d; seals %s", epoch, ", ".join(writers) or "nobody")
        self._news, self._over, self._error, self._of_term = Signal(), Signal(), None, []
        self.term = term = Term(epoch, self._settings, writers, keep_after=_KEEP_AFTER)
        self._news.set()
        self._start(self._act(term))
        self._start(self._keep_watch(term))
        yield self._over
        self.term = None
        self.tell("leads no longer: %s", self._error)

    def _start(self, steps: Steps) -> None:
        self._of_term.append(self.start(steps))

    def _act(self, term: Term) -> Steps:
        while True:
            yield self._news
            for effect in term.effects(now_s=self.kernel.now_s):
                call = self._call(term, effect)
                if call is not None:
                    yield call

    def _call(self, term: Term, effect: Effect) -> Call | None:
        redis = self._redis
        match effect:
            case SendPlan(worker, step, plan):
                return Call(redis.send_plan, worker, step, plan)
            case Seal(writer):
                self.tell("seals %s", writer)
                return Call(redis.seal, writer, term.epoch)
            case Follow(writer):
                self._start(self._follow(term, writer))
            case TakeOver():
                self._start(self._receive(term))
            case Emit(writer, step, result):
                return Call(redis.emit_faults, writer, step, result)
            case Keep(cases, outputs):
                return Call(redis.keep, self.name, cases, outputs)
            case Bury(entry, letter):
                self.tell("buries %s: %s", entry, letter.reason)
                return Call(redis.bury, self.name, entry, letter)
            case Finish(entries, _, outputs):
                self.tell("finishes %s", entries)
                return Call(redis.finish, entries, outputs)
            case Announce(status):
                return Call(redis.announce, status)
        return None

    def _receive(self, term: Term) -> Steps:
        deliveries = yield Call(self._redis.recover, self.name)
        self.tell("takes over %s", [delivery.entry for delivery in deliveries])
        term.take_over(deliveries)
        term.check()
        self._news.set()
        held = {delivery.entry for delivery in deliveries}
        while True:
            deliveries = yield Call(
                self._redis.receive, self.name, held, is_repeatable=False, key=INBOX, timeout_s=_READ_TIMEOUT_S
            )
            held.update(delivery.entry for delivery in deliveries)
            term.receive(deliveries, now_s=self.kernel.now_s)
            self._news.set()

    def _follow(self, term: Term, writer: WorkerId) -> Steps:
        after = BEFORE_FIRST_STEP
        while not after.is_seal:
            key = ("results", writer)
            entries = yield Call(self._redis.read_results, writer, after, key=key, timeout_s=_READ_TIMEOUT_S)
            if entries:
                after = entries[-1].step
                term.read(writer, entries)
                term.check()
                self._news.set()

    def _keep_watch(self, term: Term) -> Steps:
        next_look_s = self.kernel.now_s
        while True:
            if (yield Call(self._redis.acquire_lease, self.name, self.connection)) != term.epoch:
                raise LeaseLostError(f"epoch {term.epoch} is over")
            sighting = yield Call(self._redis.sight_workers, term.workers(), self.connection)
            now_s = self.kernel.now_s
            term.sight(sighting, now_s=now_s)
            if now_s >= next_look_s:
                next_look_s = now_s + HEARTBEAT_INTERVAL_S
                workers = yield Call(self._redis.workers)
                gateways = yield Call(self._redis.live, term.gateways())
                term.look(workers, gateways, now_s=now_s)
            self._news.set()
            yield _SIGHT_INTERVAL_S
