"""The bus as three small protocols, one per role, implemented by `redis_bus` and `memory_bus`.

What holds on every implementation:

- A submitted message is delivered to a scheduler until that scheduler finishes it, whatever dies in between.
- Plans and results are ordered by their step ids. Writing an id that is not above the last one is refused.
- Emitting a result and publishing it is one act: what is published is in the log; a sealed stream publishes nothing.
- Publishing may lose. A `TokenBatch` that was published can always be read again from the log within its retention.
- A bus may lose what was written last, or all of it. Then a log refuses a result that does not follow its last entry, a
  gateway finds its requests missing, and a new term of leadership has a larger epoch all the same.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from shared.dead_letters import Case, DeadLetter, FiledLetter
from shared.held_lease import HeldLease, Sighting
from shared.ids import BEFORE_FIRST_STEP, Epoch, GatewayId, RequestId, StepId, WorkerId
from shared.kept_outputs import OutputAddress, OutputPart
from shared.messages import (
    Attach,
    Cancel,
    Inbound,
    PoolStatus,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    WorkerHello,
    WorkerStatus,
)
from shared.usage import HourlyUsage, UsageRecord

RESULT_RETENTION = 8192
"""Results kept per worker, at least: a minute at 125 steps/s, which bounds how late a gateway can fill a gap. Of those
above 32 KB fewer are kept on Redis; such steps take long."""

PLAN_RETENTION = 256
"""Plans kept per worker, at least: far more than may be unanswered, so that trimming never takes one away unread."""

SEALED_TTL_S = 300
"""How long the streams of a sealed writer can still be read: by a leader that takes over, and by gateways with gaps."""

HEARTBEAT_INTERVAL_S = 0.5
LIVENESS_TTL_S = 3.0
"""A heartbeat or lease older than this is gone."""

SIGHT_INTERVAL_S = 0.1
"""Between two looks at the connections by which leases are held."""

RESUME_GRACE_S = 30.0
"""How long a request runs on that nobody follows. Logs reach back further."""


class Delivery(NamedTuple):
    """One message of the scheduler's inbox with what `finish` needs to end it.

    Attributes:
        entry: Names the entry to the bus; opaque to others.
        message: The message, or None if the bytes are none (then `error` says why).
        data: Those bytes.
        case: What is held against the request, where it comes from an earlier leader.
        kept: u32, by choice, what earlier leaders have kept of its output.
    """

    entry: str
    message: Inbound | None
    error: str = ""
    data: bytes = b""
    case: Case | None = None
    kept: tuple[bytes, ...] = ()


class LoggedResult(NamedTuple):
    """One entry of a result stream; a seal has no result, and neither have bytes that are none.

    Attributes:
        error: Why they are none.
        data: Those bytes.
    """

    step: StepId
    result: StepResult | None
    error: str = ""
    data: bytes = b""


NO_USAGE: Mapping[str, UsageRecord] = MappingProxyType({})


class GatewayBus(Protocol):
    """What a gateway does on the bus. Asynchronous; safe to use from many tasks of one event loop."""

    @property
    def gateway_id(self) -> GatewayId:
        """This gateway's name on the bus."""

    async def submit(self, message: Submit, *, max_requests: int) -> str:
        """Enqueue a request; returns the bus's name for its entry.

        Raises:
            QueueFullError: `max_requests` requests are already in the pool, waiting or running.
            BusUnavailableError: Redis does not answer.
        """

    async def resubmit(self, message: Submit) -> str:
        """Enqueue a request that was accepted before, however many there are; returns its new entry."""

    async def missing(self, entries: Sequence[str]) -> set[str]:
        """Those entries that are no longer there: their requests have ended, or the bus has lost them."""

    async def incarnation(self) -> str:
        """Names the server's data. Another name than before means that some of it may be lost."""

    async def num_requests(self) -> int:
        """Requests in the pool, waiting or running."""

    async def cancel(self, message: Cancel) -> None:
        """Tell the scheduler that a request is over for us."""

    async def attach(self, message: Attach) -> None:
        """Tell the scheduler that we follow a request that another gateway, or this one, has submitted."""

    def follow(self, gateway_id: GatewayId) -> "GatewayBus":
        """The same pool as another gateway sees it: its feed, and its part of the logs. Whoever asks closes it."""

    def feed(self) -> AsyncIterator[TokenBatch]:
        """The fast copy of our tokens. Never ends; reconnects by itself; may lose messages silently."""

    async def backfill(self, writer: WorkerId, after: StepId) -> tuple[StepId, list[TokenBatch]]:
        """Our batches in a writer's log above `after`, and the id up to which that log has now been read."""

    async def writers(self) -> list[WorkerId]:
        """Everyone whose log may hold something for us, the dead included."""

    async def heartbeat(self) -> None:
        """Say that this gateway lives."""

    async def pool_status(self) -> PoolStatus | None:
        """The leading scheduler's word, or None while nobody leads."""

    async def usage(self, hours: range) -> list[HourlyUsage]:
        """What requests used that ended in these hours (unix time / 3600), in order; nothing of hours without any."""

    async def usage_of(self, request_id: RequestId) -> UsageRecord | None:
        """What one request used, if it has ended not long ago."""

    async def close(self) -> None:
        """Release the connections."""


class SchedulerBus(Protocol):
    """What a scheduler does on the bus. Asynchronous; one event loop."""

    async def acquire_lease(self) -> Epoch | None:
        """Become, or remain, leader. None while another one leads."""

    async def resign(self) -> None:
        """Give the lease up, if it is ours."""

    async def sight_leader(self) -> Sighting:
        """Look at the lease of whoever leads."""

    async def depose(self, lease: HeldLease) -> None:
        """Let the leader's lease run out now, if it has not been renewed by another connection since."""

    async def sight_workers(self, workers: Iterable[WorkerId]) -> Sighting:
        """Look at the leases of these workers."""

    async def recover(self) -> list[Delivery]:
        """All that earlier leaders received and did not finish, oldest first."""

    async def receive(self, *, timeout_s: float) -> list[Delivery]:
        """New messages, oldest first within each stream; empty after the timeout."""

    async def finish(
        self,
        entries: Iterable[str],
        usage: Mapping[str, UsageRecord] = NO_USAGE,
        outputs: Sequence[OutputAddress] = (),
    ) -> None:
        """End these messages: they will not be delivered again.

        Args:
            entries: Their entries.
            usage: By entry, what its request used; counted once, even if the entry is finished again.
            outputs: Those that something was kept of.
        """

    async def keep(self, cases: Mapping[str, Case], outputs: Sequence[OutputPart] = ()) -> None:
        """Remember something of requests until they are finished.

        Args:
            cases: By entry, what is held against its request.
            outputs: What the logs hold now and will not hold for ever. A part that begins behind the end of what is
                there is passed over: the bus has lost what came before it.

        Raises:
            LeaseLostError: another scheduler leads.
        """

    async def bury(self, entry: str, letter: DeadLetter) -> None:
        """Keep a dead letter, and close its entry's case. The same entry again does nothing.

        Raises:
            LeaseLostError: another scheduler leads.
        """

    async def send_plan(self, worker: WorkerId, step: StepId, plan: StepPlan) -> None:
        """Append to a worker's plan stream. The same id again is a retry and does nothing.

        Raises:
            LeaseLostError: a newer leader has written to this stream.
        """

    async def read_results(self, worker: WorkerId, after: StepId, *, timeout_s: float) -> list[LoggedResult]:
        """Results above `after`, in order; waits for the first of them; empty after the timeout."""

    async def seal(self, worker: WorkerId, epoch: Epoch) -> None:
        """Declare a worker dead: from now on nothing is added to its streams. Idempotent."""

    async def emit(self, worker: WorkerId, step: StepId, result: StepResult) -> None:
        """Write and publish a result under our own writer's id: faults.

        Raises:
            LeaseLostError: a newer leader leads.
        """

    async def workers(self) -> dict[WorkerId, WorkerStatus]:
        """The live workers."""

    async def writers(self) -> list[WorkerId]:
        """Everyone, dead or alive, whose result stream still exists."""

    async def live_gateways(self, gateways: Iterable[GatewayId]) -> set[GatewayId]:
        """Those of them that have a heartbeat."""

    async def publish_status(self, status: PoolStatus) -> None:
        """Tell everybody how the pool is."""

    async def close(self) -> None:
        """Release the connections."""


class DeadLetterBox(Protocol):
    """What a person does with the dead letters of a pool. Asynchronous."""

    async def letters(self, *, limit: int) -> list[FiledLetter]:
        """The newest, the newest first. Those that cannot be read any more are left out."""

    async def letter(self, letter_id: str) -> FiledLetter | None:
        """One of them."""

    async def drop(self, letter_ids: Iterable[str]) -> int:
        """Throw them away; says how many there were."""

    async def close(self) -> None:
        """Release the connections."""


class WorkerBus(Protocol):
    """What a worker does on the bus. Blocking; each method is used by one thread at a time."""

    def register(self) -> WorkerId:
        """Take a new name, and put it among the writers. No earlier leader can write to its streams.

        A leader seals the workers that it finds as it begins; whoever registers later is closed to those before it.
        """

    def hello(self, hello: WorkerHello) -> None:
        """Ask for work."""

    def bye(self, worker: WorkerId, *, error: str = "") -> None:
        """Say that no further plan will be executed, and why, if it is because of an error."""

    def read_plans(self, worker: WorkerId, after: StepId, *, timeout_s: float) -> list[tuple[StepId, StepPlan]]:
        """Plans above `after`, in order; empty after the timeout.

        Raises:
            SealedError: the stream has been sealed.
            MessageError: a plan cannot be read; it is among the dead letters.
            BusUnavailableError: Redis does not answer.
        """

    def emit(self, worker: WorkerId, step: StepId, result: StepResult, *, previous: StepId = BEFORE_FIRST_STEP) -> None:
        """Append to the result stream and publish each batch to its gateway, as one act. The same id again is a retry.

        Args:
            worker: Our name.
            step: That of the plan which the result answers.
            result: What to write.
            previous: What we have emitted before: the log must have come so far.

        Raises:
            SealedError: the stream has been sealed; nothing was published.
            LogLostError: the log ends before `previous`; nothing was published.
            BusUnavailableError: Redis does not answer.
        """

    def heartbeat(self, status: WorkerStatus) -> None:
        """Say that this worker lives, how far it is, and by which connection it says so."""

    @property
    def is_cut_off(self) -> bool:
        """Whether that connection has been closed since: the next heartbeat is due at once."""

    def close(self) -> None:
        """Release the connections."""
