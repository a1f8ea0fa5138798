"""What stands on the in-memory bus: streams, the inbox, signs of life. Owns the lock and wakes whoever waits."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shared.bus import LIVENESS_TTL_S, PLAN_RETENTION, RESULT_RETENTION, SEALED_TTL_S, Delivery
from shared.dead_letters import DEAD_LETTERS_KEPT, Case, DeadLetter
from shared.errors import LogLostError, SealedError
from shared.ids import BEFORE_FIRST_STEP, GatewayId, StepId, WorkerId
from shared.kept_outputs import OutputAddress, OutputPart, addresses_of
from shared.messages import Inbound, PoolStatus, StepPlan, StepResult, Submit, TokenBatch, WorkerStatus
from shared.packing import U32_BYTES
from shared.usage import RECORDS_KEPT, UsageRecord

_T = TypeVar("_T")


@dataclass(slots=True)
class Stream(Generic[_T]):
    """An append-only log in the order of its ids. A seal is an entry without a value."""

    retention: int
    last: StepId = BEFORE_FIRST_STEP
    entries: dict[StepId, _T | None] = field(default_factory=dict)

    def add(self, step: StepId, value: _T | None) -> bool:
        """Append; False if the id is not above the last one."""
        if step <= self.last:
            return False
        self.last = step
        self.entries[step] = value
        if len(self.entries) > self.retention:
            del self.entries[next(iter(self.entries))]
        return True

    def above(self, after: StepId) -> list[tuple[StepId, _T | None]]:
        """The entries after an id, in order."""
        if self.last <= after:
            return []
        newest_first = []
        for item in reversed(self.entries.items()):
            if item[0] <= after:
                break
            newest_first.append(item)
        return newest_first[::-1]


@dataclass(slots=True)
class Inbox:
    """Messages for the scheduler. `pending` remembers who was given what until it is finished."""

    name: str
    waiting: dict[str, Inbound] = field(default_factory=dict)
    pending: dict[str, tuple[str, Inbound]] = field(default_factory=dict)
    num_added: int = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.pending)

    def __contains__(self, entry: str) -> bool:
        return entry in self.waiting or entry in self.pending

    def add(self, message: Inbound) -> str:
        """Append a message; returns its entry."""
        self.num_added += 1
        entry = f"{self.name}:{self.num_added}"
        self.waiting[entry] = message
        return entry

    def take(self, scheduler: str) -> list[Delivery]:
        """Deliver what waits."""
        taken, self.waiting = self.waiting, {}
        self.pending.update((entry, (scheduler, message)) for entry, message in taken.items())
        return [Delivery(entry, message) for entry, message in taken.items()]

    def adopt(self, scheduler: str, *, own: bool = False) -> list[Delivery]:
        """Deliver again what others were given and did not finish; also what the scheduler itself was, if `own`."""
        adopted = [(entry, message) for entry, (owner, message) in self.pending.items() if own or owner != scheduler]
        self.pending.update((entry, (scheduler, message)) for entry, message in adopted)
        return [Delivery(entry, message) for entry, message in adopted]


class KeptOutputs:
    """What is kept of outputs beside the logs."""

    def __init__(self) -> None:
        self._kept: dict[OutputAddress, bytes] = {}

    def keep(self, part: OutputPart) -> None:
        """Keep a part behind what is there, or in its place; one that would leave a gap is passed over."""
        before, first = self._kept.get(part.address, b""), part.start * U32_BYTES
        if first <= len(before):
            behind = before[first + len(part.data) :] if first else b""
            self._kept[part.address] = before[:first] + part.data + behind

    def drop(self, address: OutputAddress) -> None:
        """Forget an output."""
        self._kept.pop(address, None)

    def of(self, delivery: Delivery) -> tuple[bytes, ...]:
        """By choice, what is kept of a request's outputs."""
        message = delivery.message
        return tuple(map(self.at, addresses_of(message))) if isinstance(message, Submit) else ()

    def at(self, address: OutputAddress) -> bytes:
        """What is kept of one output."""
        return self._kept.get(address, b"")


class PoolState:
    """All that the roles share. `changed` guards it, and is notified of every write that somebody may wait for."""

    def __init__(self, drop: Callable[[TokenBatch], bool] | None, clock: Callable[[], float]) -> None:
        self.drop = drop
        self.clock = clock
        self.changed = threading.Condition()
        self.requests = Inbox("req")
        self.control = Inbox("ctl")
        self.plans: dict[WorkerId, Stream[StepPlan]] = {}
        self.results: dict[WorkerId, Stream[StepResult]] = {}
        self.sealed_at: dict[WorkerId, float] = {}
        self.feeds: dict[GatewayId, list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[TokenBatch]]]] = {}
        self.cases: dict[str, Case] = {}
        self.outputs = KeptOutputs()
        self.letters: dict[str, DeadLetter] = {}
        self.num_letters = 0
        self.usage: dict[int, dict[str, int]] = {}
        self.usage_records: deque[UsageRecord] = deque(maxlen=RECORDS_KEPT)
        self.worker_status: dict[WorkerId, tuple[float, WorkerStatus]] = {}
        self.gateway_seen: dict[GatewayId, float] = {}
        self.status: tuple[float, PoolStatus] | None = None
        self.leader: tuple[float, str] | None = None
        self.epoch = 0
        self.num_workers = 0
        self._sleepers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def is_live(self, seen: float | None) -> bool:
        """Whether a sign of life is young enough."""
        return seen is not None and self.clock() - seen < LIVENESS_TTL_S

    def notify(self) -> None:
        """Wake threads and event loops; the caller holds `changed`."""
        self.changed.notify_all()
        for loop, event in self._sleepers:
            loop.call_soon_threadsafe(event.set)

    async def wait_for(self, poll: Callable[[], list[_T]], timeout_s: float) -> list[_T]:
        """What `poll` finds, as soon as it finds something; empty after the timeout."""
        sleeper = (asyncio.get_running_loop(), asyncio.Event())
        with self.changed:
            self._sleepers.add(sleeper)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    sleeper[1].clear()
                    with self.changed:
                        found = poll()
                    if found:
                        return found
                    await sleeper[1].wait()
        except TimeoutError:
            return []
        finally:
            with self.changed:
                self._sleepers.discard(sleeper)

    def add_writer(self, writer: WorkerId, *, after: StepId = BEFORE_FIRST_STEP) -> None:
        """Give a writer its streams, if it has none; their ids are above `after`."""
        self.results.setdefault(writer, Stream(RESULT_RETENTION, after))
        self.plans.setdefault(writer, Stream(PLAN_RETENTION, after))

    def add_letter(self, letter: DeadLetter) -> None:
        """Keep a dead letter; the oldest may give way."""
        self.num_letters += 1
        self.letters[f"{letter.at_ms}-{self.num_letters}"] = letter
        if len(self.letters) > DEAD_LETTERS_KEPT:
            del self.letters[next(iter(self.letters))]

    def emit(self, writer: WorkerId, step: StepId, result: StepResult, *, previous: StepId = BEFORE_FIRST_STEP) -> None:
        """Append to the log and publish, as one act.

        Raises:
            SealedError: the log is sealed, or unknown; nothing was published.
            LogLostError: the log ends before `previous`; nothing was published.
        """
        with self.changed:
            stream = self.results.get(writer)
            if stream is None:
                raise SealedError(f"{writer} is not among the writers")
            if stream.last < previous and not stream.last.is_seal:
                raise LogLostError(f"the log of {writer} ends at {stream.last}", last=stream.last)
            if not stream.add(step, result):
                if stream.entries.get(step) == result:
                    return
                raise SealedError(f"{writer} may not write {step}: its stream ends at {stream.last}")
            for batch in result.batches:
                if self.drop is None or not self.drop(batch):
                    for loop, queue in self.feeds.get(batch.gateway_id, ()):
                        loop.call_soon_threadsafe(queue.put_nowait, batch)
            self.notify()

    def forget_long_sealed(self) -> None:
        """Drop what would have expired on Redis."""
        for writer, sealed_at in list(self.sealed_at.items()):
            if self.clock() - sealed_at > SEALED_TTL_S:
                del self.sealed_at[writer], self.results[writer], self.plans[writer]
