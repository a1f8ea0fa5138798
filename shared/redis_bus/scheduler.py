"""A scheduler's side of the bus on Redis."""

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import redis

from shared.bus import LIVENESS_TTL_S, NO_USAGE, PLAN_RETENTION, SEALED_TTL_S, Delivery, LoggedResult
from shared.dead_letters import CASE_TTL_S, DEAD_LETTERS_KEPT, Case, DeadLetter, encode_record
from shared.errors import LeaseLostError, MessageError
from shared.held_lease import HeldLease, Sighting
from shared.ids import SEAL_STEP, Epoch, GatewayId, StepId, WorkerId
from shared.kept_outputs import OUTPUT_TTL_S, OutputAddress, OutputPart
from shared.keys import PoolKeys
from shared.messages import PoolStatus, StepPlan, StepResult, WorkerStatus, decode, encode
from shared.packing import U32_BYTES
from shared.redis_bus.client_list import ClientList
from shared.redis_bus.connecting import Argument, block
from shared.redis_bus.connection import AsyncConnection
from shared.redis_bus.connection_name import AsyncConnectionName
from shared.redis_bus.emission import emit_arguments
from shared.redis_bus.inbox import RedisInbox
from shared.redis_bus.scripts import BURY, DEPOSE, EMIT, KEEP, LEASE, REGISTER, RESIGN, SEAL, Script
from shared.usage import UsageRecord

_log = logging.getLogger(__name__)

_TTL_MS = int(LIVENESS_TTL_S * 1000)
_PAGE = 256


class RedisSchedulerBus:
    """Implements `SchedulerBus`. Made by `connect`.

    Plans and commands share one connection; the inbox and each worker's results, which are waited for, have their own.
    """

    def __init__(self, url: str, pool: str) -> None:
        self._url = url
        self._keys = PoolKeys(pool)
        self._name = f"sched-{uuid.uuid4().hex[:12]}"
        self._commands = AsyncConnection(url, self._name)
        self._connection_name = AsyncConnectionName(self._commands)
        self._clients = ClientList(self._commands, self._connection_name)
        self._inbox = RedisInbox(url, self._keys, self._name, self._commands)
        self._results: dict[WorkerId, AsyncConnection] = {}
        self._last_epoch = 0

    @classmethod
    async def connect(cls, url: str, pool: str) -> Self:
        """Join a pool, and make its inbox if it is new.

        Raises:
            ConfigurationError: the url is wrong, or the server will not do.
            BusUnavailableError: Redis does not answer.
        """
        bus = cls(url, pool)
        await bus._commands.greet()
        await bus._inbox.create_groups()
        return bus

    async def acquire_lease(self) -> Epoch | None:
        """Become, or remain, leader. None while another one leads."""
        keys = [self._keys.lead, self._keys.epoch, self._keys.lead_connection]
        is_said = False
        while not is_said:
            connection = await self._connection_name.ask()
            epoch = await self._commands.run(LEASE, keys, self._name, _TTL_MS, self._last_epoch, connection)
            if epoch is None:
                return None
            self._last_epoch = epoch
            is_said = self._connection_name.is_current
        return Epoch(self._last_epoch)

    async def resign(self) -> None:
        """Give the lease up, if it is ours."""
        await self._commands.run(RESIGN, [self._keys.lead], self._name)

    async def sight_leader(self) -> Sighting:
        """Look at the lease of whoever leads."""
        keys = (self._keys.lead, self._keys.lead_connection)
        leader, connection = await self._commands.call("MGET", *keys, is_repeatable=True)
        left_ms = await self._commands.call("PTTL", self._keys.lead, is_repeatable=True)
        is_held = leader and connection and left_ms >= 0
        leases = [(leader.decode(), connection.decode(), LIVENESS_TTL_S - left_ms / 1000)] if is_held else []
        return await self._clients.sight(leases)

    async def depose(self, lease: HeldLease) -> None:
        """Let the leader's lease run out now, if it has not been renewed by another connection since."""
        await self._commands.run(DEPOSE, [self._keys.lead, self._keys.lead_connection], lease.holder, lease.connection)

    async def sight_workers(self, workers: Iterable[WorkerId]) -> Sighting:
        """Look at the leases of these workers."""
        asked = list(workers)
        keys = map(self._keys.worker_connection, asked)
        names = await self._commands.call("MGET", *keys, is_repeatable=True) if asked else []
        return await self._clients.sight((w, name.decode(), 0.0) for w, name in zip(asked, names, strict=True) if name)

    async def recover(self) -> list[Delivery]:
        """All that earlier leaders received and did not finish, oldest first within each stream. Needs the lease."""
        return await self._inbox.recover()

    async def receive(self, *, timeout_s: float) -> list[Delivery]:
        """New messages, oldest first within each stream; empty after the timeout."""
        return await self._inbox.receive(timeout_s)

    async def finish(
        self,
        entries: Iterable[str],
        usage: Mapping[str, UsageRecord] = NO_USAGE,
        outputs: Sequence[OutputAddress] = (),
    ) -> None:
        """End these messages: they will not be delivered again. Usage is counted once. Then forget what was kept."""
        await self._inbox.finish(entries, usage)
        if outputs:
            await self._commands.call("DEL", *map(self._keys.output, outputs), is_repeatable=True)

    async def keep(self, cases: Mapping[str, Case], outputs: Sequence[OutputPart] = ()) -> None:
        """Remember, until these requests are finished, what is held against them and what they have told.

        Raises:
            LeaseLostError: another scheduler leads.
        """
        keys = [self._keys.lead, self._keys.cases, *(self._keys.output(part.address) for part in outputs)]
        parts = [word for part in outputs for word in (part.start * U32_BYTES, part.data)]
        fields = [word for entry, case in cases.items() for word in (entry, encode_record(case))]
        await self._run_as_leader(KEEP, keys, CASE_TTL_S, OUTPUT_TTL_S, *parts, *fields)

    async def bury(self, entry: str, letter: DeadLetter) -> None:
        """Keep a dead letter, and close its entry's case. The same entry again does nothing.

        Raises:
            LeaseLostError: another scheduler leads.
        """
        keys = [self._keys.dead_letters, self._keys.cases, self._keys.lead]
        closed = encode_record(Case(is_closed=True))
        await self._run_as_leader(BURY, keys, entry, encode_record(letter), closed, DEAD_LETTERS_KEPT, CASE_TTL_S)

    async def send_plan(self, worker: WorkerId, step: StepId, plan: StepPlan) -> None:
        """Append to a worker's plan stream. The same id again is a retry and does nothing.

        Raises:
            LeaseLostError: the stream has gone past this id, by another's hand.
            BusUnavailableError: Redis does not answer; the plan may or may not be there.
        """
        stream, data = self._keys.plans(worker), encode(plan)
        try:
            trim = ("MAXLEN", "~", PLAN_RETENTION)
            await self._commands.call("XADD", stream, *trim, str(step), "d", data, is_repeatable=True)
        except redis.ResponseError as error:
            if "equal or smaller" not in str(error):
                raise
            there = await self._commands.call("XRANGE", stream, str(step), str(step), is_repeatable=True)
            if not there or there[0][1][1] != data:
                raise LeaseLostError(f"plan {step} of {worker} comes too late: a newer one stands there") from error

    async def read_results(self, worker: WorkerId, after: StepId, *, timeout_s: float) -> list[LoggedResult]:
        """Results above `after`, in order; waits for the first of them; empty after the timeout."""
        reader = self._results.get(worker)
        if reader is None:
            reader = self._results[worker] = AsyncConnection(self._url, f"{self._name}-{worker}")
        command = ("XREAD", "COUNT", _PAGE, *block(timeout_s), "STREAMS", self._keys.results(worker), str(after))
        reply = await reader.call(*command, wait_s=timeout_s, is_repeatable=True)
        results = [_logged(entry_id, fields) for _, entries in reply or () for entry_id, fields in entries]
        if results and results[-1].step.is_seal:
            del self._results[worker]
            await reader.close()
        return results

    async def seal(self, worker: WorkerId, epoch: Epoch) -> None:
        """Declare a worker dead: from now on nothing is added to its streams. Idempotent.

        Raises:
            LeaseLostError: a newer leader has written to this stream.
        """
        keys = [self._keys.results(worker), self._keys.plans(worker), self._keys.writers]
        seal, nobody = StepId(epoch, SEAL_STEP), WorkerId("")
        streams = self._keys.results(nobody), self._keys.plans(nobody)
        try:
            await self._commands.run(SEAL, keys, worker, str(seal), SEALED_TTL_S, *streams)
        except redis.ResponseError as error:
            if not str(error).startswith("NEWER"):
                raise
            raise LeaseLostError(f"{worker} cannot be sealed in epoch {epoch}: {error}") from error

    async def emit(self, worker: WorkerId, step: StepId, result: StepResult) -> None:
        """Write and publish a result under our own writer's id.

        Raises:
            LeaseLostError: a newer leader leads.
        """
        results, writers = self._keys.results(worker), self._keys.writers
        await self._commands.run(REGISTER, [results, self._keys.plans(worker), writers, self._keys.epoch], worker)
        try:
            await self._commands.run(EMIT, [results, writers], *emit_arguments(self._keys, worker, step, result))
        except redis.ResponseError as error:
            if not str(error).startswith("SEALED"):
                raise
            raise LeaseLostError(str(error)) from error

    async def workers(self) -> dict[WorkerId, WorkerStatus]:
        """The live workers."""
        writers = await self.writers()
        keys = map(self._keys.worker, writers)
        data = await self._commands.call("MGET", *keys, is_repeatable=True) if writers else []
        workers = {}
        for writer, status in zip(writers, data, strict=True):
            try:
                if status is not None:
                    workers[writer] = decode(status, WorkerStatus)
            except MessageError as error:
                _log.warning("worker %s cannot be understood, and gets no work: %s", writer, error)
        return workers

    async def writers(self) -> list[WorkerId]:
        """Everyone, dead or alive, whose result stream may still be there."""
        members = await self._commands.call("ZRANGE", self._keys.writers, 0, -1, is_repeatable=True)
        return [WorkerId(member.decode()) for member in members]

    async def live_gateways(self, gateways: Iterable[GatewayId]) -> set[GatewayId]:
        """Those of them that have a heartbeat."""
        asked = list(gateways)
        keys = map(self._keys.gateway, asked)
        signs = await self._commands.call("MGET", *keys, is_repeatable=True) if asked else []
        return {gateway for gateway, sign in zip(asked, signs, strict=True) if sign is not None}

    async def publish_status(self, status: PoolStatus) -> None:
        """Tell everybody how the pool is."""
        await self._commands.call("SET", self._keys.status, encode(status), "PX", _TTL_MS, is_repeatable=True)

    async def _run_as_leader(self, script: Script, keys: list[str], *arguments: Argument) -> None:
        try:
            await self._commands.run(script, keys, self._name, *arguments)
        except redis.ResponseError as error:
            if not str(error).startswith("LOST"):
                raise
            raise LeaseLostError("another scheduler leads") from error

    async def close(self) -> None:
        """Release the connections."""
        await self._inbox.close()
        await self._commands.close()
        for reader in self._results.values():
            await reader.close()


def _logged(entry_id: bytes, fields: list[bytes]) -> LoggedResult:
    step = StepId.parse(entry_id)
    if step.is_seal:
        return LoggedResult(step, None)
    try:
        return LoggedResult(step, decode(fields[1], StepResult))
    except MessageError as error:
        return LoggedResult(step, None, str(error), fields[1])
