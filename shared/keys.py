"""The name of every key, stream and channel. The hash tag keeps a pool on one Cluster slot."""

from dataclasses import dataclass

from shared.ids import GatewayId, WorkerId
from shared.kept_outputs import OutputAddress

GROUP = "sched"
"""The consumer group of `requests` and `control`; created at id 0."""


@dataclass(frozen=True, slots=True)
class PoolKeys:
    """Keys of one pool: one model with one engine configuration."""

    pool: str

    def _key(self, name: str) -> str:
        return f"{{{self.pool}}}:{name}"

    @property
    def requests(self) -> str:
        """Stream of `Submit`. An entry lives until its request's terminal state."""
        return self._key("req")

    @property
    def control(self) -> str:
        """Stream of `Cancel`, `Attach`, `WorkerHello`, `WorkerBye`. An entry lives until it is handled."""
        return self._key("ctl")

    @property
    def lead(self) -> str:
        """The leading scheduler's name, with a TTL: the lease."""
        return self._key("lead")

    @property
    def lead_connection(self) -> str:
        """The connection by which the lease was renewed last, with the lease's TTL."""
        return self._key("lead-connection")

    @property
    def epoch(self) -> str:
        """The last epoch given out."""
        return self._key("epoch")

    @property
    def status(self) -> str:
        """`PoolStatus`, with a TTL."""
        return self._key("status")

    @property
    def writers(self) -> str:
        """Sorted set of ids whose result streams may hold something unread; score: unix seconds last seen."""
        return self._key("writers")

    @property
    def worker_sequence(self) -> str:
        """Counter behind worker ids."""
        return self._key("wseq")

    @property
    def cases(self) -> str:
        """Hash from an entry of the inbox to its `Case`, with a TTL. A field lives until its entry is finished."""
        return self._key("cases")

    def output(self, address: OutputAddress) -> str:
        """String of u32: what is kept of an output, with a TTL. It lives until its request is finished."""
        return self._key(f"out:{address.gateway_id}:{address.handle}")

    @property
    def dead_letters(self) -> str:
        """Stream of `DeadLetter`, trimmed by length."""
        return self._key("dlq")

    def usage(self, hour: int) -> str:
        """Hash of one hour (unix time / 3600): `<API key's id> <counter>` to a sum. With a TTL."""
        return self._key(f"usage:{hour}")

    @property
    def usage_log(self) -> str:
        """Stream of `UsageRecord`, one for each request that ended; trimmed by length, with a TTL."""
        return self._key("usage:log")

    def plans(self, worker: WorkerId) -> str:
        """Stream of `StepPlan`; ids are step ids; the last may be a seal."""
        return self._key(f"plan:{worker}")

    def results(self, worker: WorkerId) -> str:
        """Stream of `StepResult`; ids are those of the plans answered; the last may be a seal."""
        return self._key(f"res:{worker}")

    def tokens(self, gateway: GatewayId) -> str:
        """Channel of `TokenBatch`."""
        return self._key(f"tok:{gateway}")

    def worker(self, worker: WorkerId) -> str:
        """`WorkerStatus`, with a TTL."""
        return self._key(f"w:{worker}")

    def worker_connection(self, worker: WorkerId) -> str:
        """The connection by which that was written, with its TTL."""
        return self._key(f"wc:{worker}")

    def gateway(self, gateway: GatewayId) -> str:
        """A gateway's sign of life, with a TTL."""
        return self._key(f"g:{gateway}")


@dataclass(frozen=True, slots=True)
class ArchiveKeys:
    """Keys of one kind of records of one pool. All of them expire, with the last record at the latest."""

    pool: str
    kind: str

    def _key(self, name: str) -> str:
        return f"{{{self.pool}}}:{self.kind}:{name}"

    def record(self, record_id: str) -> str:
        """Hash of one record: `doc`, `fence`, `parts` (their number), `expires` (unix milliseconds)."""
        return self._key(f"record:{record_id}")

    def parts(self, record_id: str) -> str:
        """Stream of one record's parts; part i has the id `0-<i + 1>`."""
        return self._key(f"parts:{record_id}")

    @property
    def listed(self) -> str:
        """Sorted set of record ids in the order of their creation."""
        return self._key("listed")

    @property
    def expiry(self) -> str:
        """Sorted set of record ids; score: unix milliseconds at which they expire."""
        return self._key("expiry")

    @property
    def sizes(self) -> str:
        """Hash from record id to bytes; the empty id is the sum."""
        return self._key("sizes")

    @property
    def jobs(self) -> str:
        """Sorted set of record ids that somebody must work on; score: unix milliseconds at which the lease ends."""
        return self._key("jobs")
