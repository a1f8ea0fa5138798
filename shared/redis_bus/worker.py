"""A worker's side of the bus on Redis: blocks in the calling thread."""

import secrets
import time
from typing import Self

import redis

from shared.bus import LIVENESS_TTL_S
from shared.dead_letters import DEAD_LETTERS_KEPT, Cause, DeadLetter, encode_record
from shared.errors import MessageError, SealedError
from shared.ids import BEFORE_FIRST_STEP, StepId, WorkerId
from shared.keys import PoolKeys
from shared.messages import (
    StepPlan,
    StepResult,
    WorkerBye,
    WorkerHello,
    WorkerStatus,
    decode,
    encode,
)
from shared.redis_bus.blocking_connection import BlockingConnection
from shared.redis_bus.connecting import Argument, block
from shared.redis_bus.connection_name import BlockingConnectionName
from shared.redis_bus.emission import emit_arguments, refusal_of
from shared.redis_bus.scripts import EMIT, HEARTBEAT, REGISTER, Script

_TTL_MS = int(LIVENESS_TTL_S * 1000)


class RedisWorkerBus:
    """Implements `WorkerBus`. Made by `connect`. Reading, emitting and all the rest have a connection each."""

    def __init__(self, url: str, pool: str) -> None:
        self._keys = PoolKeys(pool)
        name = f"worker-{secrets.token_hex(6)}"
        self._commands = BlockingConnection(url, name)
        self._name = BlockingConnectionName(self._commands)
        self._plans = BlockingConnection(url, f"{name}-plans")
        self._results = BlockingConnection(url, f"{name}-results")

    @classmethod
    def connect(cls, url: str, pool: str) -> Self:
        """Join a pool.

        Raises:
            ConfigurationError: the url is wrong, or the server will not do.
            BusUnavailableError: Redis does not answer.
        """
        bus = cls(url, pool)
        bus._commands.greet()
        return bus

    def register(self) -> WorkerId:
        """Take a new name, and put it among the writers. The name is new even if Redis has lost its counter.

        Earlier leaders than the one of this moment cannot write to its streams.
        """
        number = self._commands.call("INCR", self._keys.worker_sequence)
        worker = WorkerId(f"w{number}-{secrets.token_hex(4)}")
        keys = [self._keys.results(worker), self._keys.plans(worker), self._keys.writers, self._keys.epoch]
        self._commands.run(REGISTER, keys, worker)
        return worker

    def hello(self, hello: WorkerHello) -> None:
        """Ask for work."""
        self._commands.call("XADD", self._keys.control, "*", "d", encode(hello))

    def bye(self, worker: WorkerId, *, error: str = "") -> None:
        """Say that no further plan will be executed, and why, if it is because of an error."""
        keys = (self._keys.worker(worker), self._keys.worker_connection(worker))
        self._commands.call("DEL", *keys, is_repeatable=True)
        self._commands.call("XADD", self._keys.control, "*", "d", encode(WorkerBye(worker_id=worker, error=error)))

    def read_plans(self, worker: WorkerId, after: StepId, *, timeout_s: float) -> list[tuple[StepId, StepPlan]]:
        """Plans above `after`, in order; empty after the timeout.

        Raises:
            SealedError: the stream has been sealed.
            MessageError: a plan cannot be read; it is among the dead letters.
            BusUnavailableError: Redis does not answer.
        """
        command = ("XREAD", *block(timeout_s), "STREAMS", self._keys.plans(worker), str(after))
        reply = self._plans.call(*command, wait_s=timeout_s, is_repeatable=True)
        plans = []
        for entry_id, fields in reply[0][1] if reply else ():
            step = StepId.parse(entry_id)
            if step.is_seal:
                raise SealedError(f"{worker} has been sealed")
            try:
                plans.append((step, decode(fields[1], StepPlan)))
            except MessageError as error:
                self._bury(f"plan:{worker}:{step}", fields[1], str(error))
                raise
        return plans

    def emit(self, worker: WorkerId, step: StepId, result: StepResult, *, previous: StepId = BEFORE_FIRST_STEP) -> None:
        """Append to the result stream and publish each batch to its gateway, as one act. The same again is a retry.

        Raises:
            SealedError: the stream has been sealed; nothing was published.
            LogLostError: the log ends before `previous`; nothing was published.
            BusUnavailableError: Redis does not answer; the result may or may not be there.
        """
        keys = [self._keys.results(worker), self._keys.writers]
        arguments = emit_arguments(self._keys, worker, step, result, previous=previous)
        self._run(self._results, worker, EMIT, keys, arguments)

    def heartbeat(self, status: WorkerStatus) -> None:
        """Say that this worker lives, how far it is, and by which connection it says so.

        Raises:
            SealedError: the bus does not know this worker, since Redis has lost its data or it was dead for too long.
            BusUnavailableError: Redis does not answer.
        """
        worker = status.worker_id
        keys = [self._keys.worker(worker), self._keys.writers, self._keys.worker_connection(worker)]
        is_said = False
        while not is_said:
            arguments: list[Argument] = [worker, encode(status), _TTL_MS, self._name.ask()]
            self._run(self._commands, worker, HEARTBEAT, keys, arguments)
            is_said = self._name.is_current

    @property
    def is_cut_off(self) -> bool:
        """Whether that connection has been closed since: the next heartbeat is due at once."""
        return self._commands.is_cut_off

    def close(self) -> None:
        """Release the connections."""
        for connection in (self._commands, self._plans, self._results):
            connection.close()

    def _bury(self, source: str, data: bytes, reason: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        letter = DeadLetter(cause=Cause.UNREADABLE, source=source, message=data, reason=reason, at_ms=now_ms)
        trim = ("MAXLEN", "~", DEAD_LETTERS_KEPT)
        self._commands.call("XADD", self._keys.dead_letters, *trim, "*", "d", encode_record(letter))

    @staticmethod
    def _run(
        connection: BlockingConnection, worker: WorkerId, script: Script, keys: list[str], arguments: list[Argument]
    ) -> None:
        try:
            connection.run(script, keys, *arguments)
        except redis.ResponseError as error:
            raise refusal_of(error, worker) from error
