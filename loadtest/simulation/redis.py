"""Redis as `shared.redis_bus` uses it: each method is one act of the server. Nothing here takes time or fails."""

from collections.abc import Callable, Iterable, Mapping, Set
from copy import deepcopy
from itertools import dropwhile

from shared.bus import LIVENESS_TTL_S, PLAN_RETENTION, RESULT_RETENTION, Delivery, LoggedResult
from shared.dead_letters import Case, DeadLetter
from shared.errors import LeaseLostError, SealedError
from shared.held_lease import HeldLease, Sighting
from shared.ids import BEFORE_FIRST_STEP, SEAL_STEP, Epoch, GatewayId, Handle, StepId, WorkerId
from shared.kept_outputs import KeptOutput, OutputAddress, OutputPart, addresses_of
from shared.memory_bus.state import Inbox, KeptOutputs, Stream
from shared.messages import (
    Cancel,
    PoolStatus,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    WorkerBye,
    WorkerHello,
    WorkerStatus,
)
from shared.packing import unpack_u32
from shared.sampling import FinishCode

INBOX = "inbox"
"""What a scheduler waits for."""


class SimulatedRedis:
    """One pool's keys.

    Args:
        clock: Seconds.
        publish: Carries a batch to whoever has subscribed.
        committed: Is told what has been appended to a log.
        changed: Is told what somebody may wait for.
        is_open: Whether a connection is there.
        run: Counts the server's processes: connections do not outlive one.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        publish: Callable[[TokenBatch], None],
        committed: Callable[[StepResult], None],
        changed: Callable[[object], None],
        is_open: Callable[[str], bool],
        run: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._publish = publish
        self._committed = committed
        self._changed = changed
        self._is_open = is_open
        self._run = run
        self.requests = Inbox("req")
        self.control = Inbox("ctl")
        self.cases: dict[str, Case] = {}
        self.outputs = KeptOutputs()
        self._found_outputs = self.outputs
        self.letters: list[DeadLetter] = []
        self.plans: dict[WorkerId, Stream[StepPlan]] = {}
        self.results: dict[WorkerId, Stream[StepResult]] = {}
        self._finished_in: dict[OutputAddress, int] = {}
        self._seen: dict[str, tuple[float, object]] = {}
        self._connections: dict[str, tuple[int, str]] = {}
        self._epoch = 0
        self._num_workers = 0

    # a gateway's

    def submit(self, message: Submit) -> None:
        """ADMIT."""
        self.requests.add(message)
        self._changed(INBOX)

    def tell_scheduler(self, message: Cancel | WorkerHello | WorkerBye) -> None:
        """XADD to the control stream."""
        self.control.add(message)
        self._changed(INBOX)

    def backfill(self, gateway: GatewayId, writer: WorkerId, after: StepId) -> tuple[StepId, list[TokenBatch]]:
        """XRANGE of a log; the batches of one gateway, and how far the log has been read."""
        entries = self.results[writer].above(after) if writer in self.results else []
        batches = [b for _, result in entries if result for b in result.batches if b.gateway_id == gateway]
        return entries[-1][0] if entries else after, batches

    def writers(self) -> list[WorkerId]:
        """Everyone who has a log."""
        return list(self.results)

    def live(self, gateways: Iterable[GatewayId]) -> set[GatewayId]:
        """Those that have a heartbeat."""
        return {gateway for gateway in gateways if self._get(f"g:{gateway}") is not None}

    def beat(self, key: str, value: object, connection: str = "") -> None:
        """SET with the TTL of signs of life; what holds a lease says by which connection."""
        self._seen[key] = (self._clock(), value)
        self._connections[key] = (self._run(), connection)

    # a scheduler's

    def acquire_lease(self, name: str, connection: str) -> Epoch | None:
        """LEASE."""
        leader = self._get("lead")
        if leader not in {None, name}:
            return None
        if leader is None:
            self._epoch += 1
        self.beat("lead", name, connection)
        return Epoch(self._epoch)

    def sight_leader(self, view: str) -> Sighting:
        """CLIENT LIST of the leader's connection."""
        return self._sight(view, {str(self._get("lead")): "lead"})

    def depose(self, lease: HeldLease) -> None:
        """DEPOSE."""
        if self._get("lead") == lease.holder and self._name("lead") == lease.connection:
            del self._seen["lead"]

    def sight_workers(self, workers: Iterable[WorkerId], view: str) -> Sighting:
        """CLIENT LIST of workers' connections."""
        return self._sight(view, {worker: f"w:{worker}" for worker in workers})

    def resign(self, name: str) -> None:
        """RESIGN."""
        if self._get("lead") == name:
            del self._seen["lead"]

    def recover(self, name: str) -> list[Delivery]:
        """ADOPT, and read what is pending."""
        if self._get("lead") != name:  # ADOPT does nothing then: whoever leads keeps what it has
            return []
        found = self.requests.adopt(name, own=True) + self.control.adopt(name, own=True)
        self._found_outputs = deepcopy(self.outputs)
        return [
            delivery._replace(case=self.cases.get(delivery.entry), kept=self.outputs.of(delivery)) for delivery in found
        ]

    def receive(self, name: str, held: Set[str]) -> list[Delivery]:
        """ADOPT, and XREADGROUP: of what is pending, and of what is new."""
        found: list[Delivery] = []
        for inbox in (self.requests, self.control):
            if self._get("lead") == name:
                found += [delivery for delivery in inbox.adopt(name, own=True) if delivery.entry not in held]
            found += inbox.take(name)
        return found

    def finish(self, entries: Iterable[str], outputs: Iterable[OutputAddress]) -> None:
        """FINISH, and DEL of what was kept of the requests' outputs."""
        for entry in entries:
            self.cases.pop(entry, None)
            self.control.pending.pop(entry, None)
            _, message = self.requests.pending.pop(entry, (None, None))
            if isinstance(message, Submit):
                self._finished_in.update((address, self._epoch) for address in addresses_of(message))
        for address in outputs:
            self.outputs.drop(address)

    def keep(self, name: str, cases: Mapping[str, Case], outputs: Iterable[OutputPart]) -> None:
        """KEEP."""
        self._check_leading(name)
        self.cases |= cases
        for part in outputs:
            self.outputs.keep(part)

    def bury(self, name: str, entry: str, letter: DeadLetter) -> None:
        """BURY."""
        self._check_leading(name)
        closed = Case(is_closed=True)
        if self.cases.get(entry) != closed:
            self.letters.append(letter)
            self.cases[entry] = closed

    def send_plan(self, worker: WorkerId, step: StepId, plan: StepPlan) -> None:
        """XADD under an id of ours; there already, it is a retry."""
        stream = self.plans.setdefault(worker, Stream(PLAN_RETENTION))
        if stream.add(step, plan):
            self._changed(("plans", worker))
        elif stream.entries.get(step) != plan:
            raise LeaseLostError(f"plan {step} of {worker} comes too late: its stream is at {stream.last}")

    def read_results(self, worker: WorkerId, after: StepId) -> list[LoggedResult]:
        """XREAD of a log. In a dead worker's, a new leader finds as little as there may be left."""
        stream = self.results.get(worker)
        entries = stream.above(after) if stream else []
        if stream and stream.last.is_seal and after == BEFORE_FIRST_STEP:
            entries = list(dropwhile(lambda entry: entry[1] and self._is_dispensable(entry[1]), entries))
        return [LoggedResult(step, result) for step, result in entries]

    def seal(self, worker: WorkerId, epoch: Epoch) -> None:
        """SEAL."""
        self.add_writer(worker)
        for stream in (self.results[worker], self.plans[worker]):
            if not stream.add(StepId(epoch, SEAL_STEP), None) and not stream.last.is_seal:
                raise LeaseLostError(f"{worker} cannot be sealed in epoch {epoch}: its stream is at {stream.last}")
        self._changed(("plans", worker))
        self._changed(("results", worker))

    def workers(self) -> dict[WorkerId, WorkerStatus]:
        """The live workers."""
        found = {}
        for worker in self.results:
            status = self._get(f"w:{worker}")
            if isinstance(status, WorkerStatus):
                found[worker] = status
        return found

    def announce(self, status: PoolStatus) -> None:
        """SET of the pool's status."""
        self.beat("status", status)

    # a worker's

    def register(self, process: str) -> WorkerId:
        """INCR and REGISTER: a name that nobody has had, with streams that are closed to earlier leaders."""
        self._num_workers += 1
        worker = WorkerId(f"{process}.{self._num_workers}")
        self.add_writer(worker, after=StepId(self._epoch, 0))
        return worker

    def hello(self, hello: WorkerHello) -> None:
        """XADD to the control stream."""
        self.tell_scheduler(hello)

    def bye(self, worker: WorkerId) -> None:
        """DEL of the heartbeat, and XADD to the control stream."""
        self._seen.pop(f"w:{worker}", None)
        self.tell_scheduler(WorkerBye(worker_id=worker))

    def read_plans(self, worker: WorkerId, after: StepId) -> list[tuple[StepId, StepPlan]]:
        """XREAD of the plans."""
        stream = self.plans[worker]
        if stream.last.is_seal:
            raise SealedError(f"{worker} has been sealed")
        return [(step, plan) for step, plan in stream.above(after) if plan is not None]

    def emit(self, writer: WorkerId, step: StepId, result: StepResult) -> None:
        """EMIT: append to the log, and only then publish, as one act."""
        if self.append(writer, step, result):
            for batch in result.batches:
                self._publish(batch)

    def append(self, writer: WorkerId, step: StepId, result: StepResult) -> bool:
        """XADD to a log; False if this very result is there already."""
        stream = self.results[writer]
        if stream.add(step, result):
            self._committed(result)
            self._changed(("results", writer))
            return True
        if stream.entries.get(step) != result:
            raise SealedError(f"{writer} may not write {step}: its stream ends at {stream.last}")
        return False

    def publish(self, batch: TokenBatch) -> None:
        """PUBLISH."""
        self._publish(batch)

    def add_writer(self, writer: WorkerId, *, after: StepId = BEFORE_FIRST_STEP) -> None:
        """ZADD to the writers."""
        self.results.setdefault(writer, Stream(RESULT_RETENTION, after))
        self.plans.setdefault(writer, Stream(PLAN_RETENTION, after))

    def emit_faults(self, writer: WorkerId, step: StepId, result: StepResult) -> None:
        """REGISTER and EMIT by a scheduler."""
        self.add_writer(writer, after=StepId(self._epoch, 0))
        try:
            self.emit(writer, step, result)
        except SealedError as error:
            raise LeaseLostError(str(error)) from error

    def _is_dispensable(self, result: StepResult) -> bool:
        """Whether the log may have been trimmed by now: all that stands here was kept, or is of requests long ended.

        Kept when the leader looked for it: what a late command of an earlier leader has kept since was in the log then.
        """
        for batch in result.batches:
            items = zip(unpack_u32(batch.handles), unpack_u32(batch.indices), batch.counts, batch.finishes, strict=True)
            for handle, index, count, finish in items:
                address = OutputAddress(batch.gateway_id, Handle(handle))
                kept = KeptOutput.read(self._found_outputs.at(address))
                is_kept = index + count <= len(kept.tokens) and (finish == FinishCode.RUNNING or kept.is_ended)
                if not (is_kept or self._is_of_the_past(address)):
                    return False
            if not all(self._is_of_the_past(OutputAddress(batch.gateway_id, fault.handle)) for fault in batch.faults):
                return False
        return True

    def _is_of_the_past(self, address: OutputAddress) -> bool:
        """Whether its request was finished in an earlier term."""
        return self._finished_in.get(address, self._epoch) < self._epoch

    def _check_leading(self, name: str) -> None:
        if self._get("lead") != name:
            raise LeaseLostError(f"{name} does not lead")

    def left(self) -> list[str]:
        """What of requests is still there."""
        return [*self.requests.waiting, *self.requests.pending, *self.control.waiting, *self.control.pending]

    def _sight(self, view: str, keys: dict[str, str]) -> Sighting:
        """By holder, the keys of leases: those held by a connection to this process of the server."""
        leases = []
        for holder, key in keys.items():
            run, connection = self._connections.get(key, (-1, ""))
            if run == self._run() and self._get(key) is not None:
                age_s = self._clock() - self._seen[key][0]
                leases.append(HeldLease(holder, self._name(key), self._is_open(connection), age_s))
        return Sighting(f"{self._run()}:{view}", tuple(leases))

    def _name(self, key: str) -> str:
        run, connection = self._connections[key]
        return f"{run}:{connection}"

    def _get(self, key: str) -> object:
        seen_s, value = self._seen.get(key, (-LIVENESS_TTL_S, None))
        return value if self._clock() - seen_s < LIVENESS_TTL_S else None
