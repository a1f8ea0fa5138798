"""A scheduler's side of the in-memory bus."""

import time
from collections.abc import Iterable, Mapping, Sequence

from shared.bus import NO_USAGE, PLAN_RETENTION, Delivery, LoggedResult
from shared.dead_letters import Case, DeadLetter
from shared.errors import LeaseLostError, SealedError
from shared.held_lease import HeldLease, Sighting
from shared.ids import SEAL_STEP, Epoch, GatewayId, StepId, WorkerId
from shared.kept_outputs import OutputAddress, OutputPart
from shared.memory_bus.state import PoolState, Stream
from shared.messages import PoolStatus, StepPlan, StepResult, WorkerStatus
from shared.usage import HOUR_S, UsageRecord, sums_of


class MemorySchedulerBus:
    """Implements `SchedulerBus`."""

    def __init__(self, state: PoolState, name: str) -> None:
        self._state = state
        self._name = name

    async def acquire_lease(self) -> Epoch | None:
        """Become, or remain, leader. None while another one leads."""
        state = self._state
        with state.changed:
            if state.leader and state.is_live(state.leader[0]):
                if state.leader[1] != self._name:
                    return None
            else:
                state.epoch = max(state.epoch + 1, int(time.time()))
            state.leader = (state.clock(), self._name)
            return Epoch(state.epoch)

    async def resign(self) -> None:
        """Give the lease up, if it is ours."""
        with self._state.changed:
            if self._state.leader and self._state.leader[1] == self._name:
                self._state.leader = None

    async def sight_leader(self) -> Sighting:
        """There are no connections to look at."""
        return Sighting("")

    async def depose(self, lease: HeldLease) -> None:
        """Let the leader's lease run out now."""
        with self._state.changed:
            if self._state.leader and self._state.leader[1] == lease.holder:
                self._state.leader = None

    async def sight_workers(self, workers: Iterable[WorkerId]) -> Sighting:
        """There are no connections to look at."""
        return Sighting("")

    async def recover(self) -> list[Delivery]:
        """All that earlier leaders received and did not finish, oldest first."""
        with self._state.changed:
            requests = self._state.requests.adopt(self._name, own=True)
            found = requests + self._state.control.adopt(self._name, own=True)
            cases, outputs = self._state.cases, self._state.outputs
            return [delivery._replace(case=cases.get(delivery.entry), kept=outputs.of(delivery)) for delivery in found]

    async def receive(self, *, timeout_s: float) -> list[Delivery]:
        """New messages, oldest first within requests and within control messages; empty after the timeout."""
        return await self._state.wait_for(self._take, timeout_s)

    def _take(self) -> list[Delivery]:
        """New messages, and those that a former leader took after it had lost the lease."""
        state, found = self._state, list[Delivery]()
        for inbox in (state.requests, state.control):
            if state.leader and state.leader[1] == self._name:
                found += inbox.adopt(self._name)
            found += inbox.take(self._name)
        return found

    async def finish(
        self,
        entries: Iterable[str],
        usage: Mapping[str, UsageRecord] = NO_USAGE,
        outputs: Sequence[OutputAddress] = (),
    ) -> None:
        """End these messages: they will not be delivered again. Usage is counted once. Then forget what was kept."""
        state = self._state
        with state.changed:
            for entry in entries:
                state.control.pending.pop(entry, None)
                state.cases.pop(entry, None)
                if state.requests.pending.pop(entry, None) and entry in usage:
                    state.usage_records.append(usage[entry])
                    sums = state.usage.setdefault(int(time.time()) // HOUR_S, {})
                    for name, count in sums_of(usage[entry]).items():
                        sums[name] = sums.get(name, 0) + count
            for address in outputs:
                state.outputs.drop(address)

    async def keep(self, cases: Mapping[str, Case], outputs: Sequence[OutputPart] = ()) -> None:
        """Remember, until these requests are finished, what is held against them and what they have told.

        Raises:
            LeaseLostError: another scheduler leads.
        """
        with self._state.changed:
            self._check_leading()
            self._state.cases |= cases
            for part in outputs:
                self._state.outputs.keep(part)

    async def bury(self, entry: str, letter: DeadLetter) -> None:
        """Keep a dead letter, and close its entry's case. The same entry again does nothing.

        Raises:
            LeaseLostError: another scheduler leads.
        """
        state, closed = self._state, Case(is_closed=True)
        with state.changed:
            self._check_leading()
            if state.cases.get(entry) != closed:
                state.add_letter(letter)
                state.cases[entry] = closed

    async def send_plan(self, worker: WorkerId, step: StepId, plan: StepPlan) -> None:
        """Append to a worker's plan stream. The same id again is a retry and does nothing.

        Raises:
            LeaseLostError: the stream has gone past this id, by another's hand.
        """
        with self._state.changed:
            stream = self._state.plans.setdefault(worker, Stream(PLAN_RETENTION))
            if stream.add(step, plan):
                self._state.notify()
            elif stream.entries.get(step) != plan:
                raise LeaseLostError(f"plan {step} of {worker} comes too late: its stream is at {stream.last}")

    async def read_results(self, worker: WorkerId, after: StepId, *, timeout_s: float) -> list[LoggedResult]:
        """Results above `after`, in order; waits for the first of them; empty after the timeout."""

        def poll() -> list[LoggedResult]:
            stream = self._state.results.get(worker)
            return [LoggedResult(step, result) for step, result in stream.above(after)] if stream else []

        return await self._state.wait_for(poll, timeout_s)

    async def seal(self, worker: WorkerId, epoch: Epoch) -> None:
        """Declare a worker dead: from now on nothing is added to its streams. Idempotent.

        Raises:
            LeaseLostError: a newer leader has written to this stream.
        """
        state = self._state
        with state.changed:
            state.add_writer(worker)
            for stream in (state.results[worker], state.plans[worker]):
                if not stream.add(StepId(epoch, SEAL_STEP), None) and not stream.last.is_seal:
                    raise LeaseLostError(f"{worker} cannot be sealed in epoch {epoch}: its stream is at {stream.last}")
            state.sealed_at[worker] = state.clock()
            state.forget_long_sealed()
            state.notify()

    async def emit(self, worker: WorkerId, step: StepId, result: StepResult) -> None:
        """Write and publish a result under our own writer's id.

        Raises:
            LeaseLostError: a newer leader leads.
        """
        with self._state.changed:
            self._state.add_writer(worker, after=StepId(self._state.epoch, 0))
        try:
            self._state.emit(worker, step, result)
        except SealedError as error:
            raise LeaseLostError(str(error)) from error

    async def workers(self) -> dict[WorkerId, WorkerStatus]:
        """The live workers."""
        with self._state.changed:
            return {w: status for w, (seen, status) in self._state.worker_status.items() if self._state.is_live(seen)}

    async def writers(self) -> list[WorkerId]:
        """Everyone, dead or alive, whose result stream still exists."""
        with self._state.changed:
            return list(self._state.results)

    async def live_gateways(self, gateways: Iterable[GatewayId]) -> set[GatewayId]:
        """Those of them that have a heartbeat."""
        with self._state.changed:
            return {gateway for gateway in gateways if self._state.is_live(self._state.gateway_seen.get(gateway))}

    async def publish_status(self, status: PoolStatus) -> None:
        """Tell everybody how the pool is."""
        with self._state.changed:
            self._state.status = (self._state.clock(), status)

    def _check_leading(self) -> None:
        if self._state.leader is None or self._state.leader[1] != self._name:
            raise LeaseLostError("another scheduler leads")

    async def close(self) -> None:
        """There is nothing to release."""
