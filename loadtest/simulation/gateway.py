"""A simulated gateway process with its clients: what `gateway.streaming.streams` does, around the same `Routing`."""

from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from gateway.streaming.gap import QUIET_S, ChoiceStream
from gateway.streaming.routing import ListWriters, ReadLog, Routing
from loadtest.simulation.kernel import Call, Kernel, Process, Signal, Steps, Violation
from loadtest.simulation.model import expected_output
from loadtest.simulation.network import Network
from loadtest.simulation.redis import SimulatedRedis
from shared.bus import HEARTBEAT_INTERVAL_S
from shared.errors import BusUnavailableError
from shared.ids import GatewayId, Handle, RequestId
from shared.messages import Cancel, Fault, Submit, TokenBatch
from shared.packing import pack_u32
from shared.sampling import FinishCode, SamplingParams

_RETRY_S: Final = 0.5
_CANCEL_ATTEMPTS: Final = 5
GRACE_S: Final = 2.0
"""A gateway that was away for longer may find that its requests were given up."""


@dataclass(slots=True)
class Ask:
    """One client: what it asks, and what it has been told.

    Attributes:
        hangs_up_s: How long it waits, if it does not wait for the end.
        told: Tokens by choice.
        ended: How each choice ended, of those that have.
        is_over: Whether nothing more will be told.
        is_accepted: Whether the gateway has said so.
    """

    request_id: RequestId
    prompt: list[int]
    sampling: SamplingParams
    hangs_up_s: float | None
    told: list[list[int]] = field(default_factory=list)
    ended: dict[int, FinishCode] = field(default_factory=dict)
    is_over: bool = False
    is_accepted: bool = False


class GatewayProcess(Process):
    """Serves clients until it is killed. Every token is compared with what the model must say when it comes.

    Attributes:
        asks: Its clients, those that have been answered included.
    """

    def __init__(
        self, kernel: Kernel, name: str, redis: SimulatedRedis, network: Network, *, max_model_len: int
    ) -> None:
        super().__init__(kernel, name)
        self.gateway_id = GatewayId(name)
        self._redis = redis
        self._network = network
        self._max_model_len = max_model_len
        self.asks: list[Ask] = []
        self._routing = Routing()
        self._open: dict[Handle, tuple[Ask, int, ChoiceStream, tuple[list[int], FinishCode]]] = {}
        self._ends: dict[RequestId, Signal] = {}
        self._published: deque[TokenBatch] = deque()
        self._is_subscribed = False
        self._has_published, self._must_read = Signal(), Signal()
        for steps in (self._follow_feed(), self._read(), self._watch(), self._show_life()):
            self.start(steps)
        self._routing.read_all()
        self._must_read.set()

    def serve(self, ask: Ask) -> None:
        """Take a client on."""
        self.asks.append(ask)
        self.start(self._serve(ask))

    def _serve(self, ask: Ask) -> Steps:
        choices = self._routing.open(ask.sampling.n, self.kernel.now_s)
        submit = Submit(
            request_id=ask.request_id, gateway_id=self.gateway_id, handle=choices[0].handle,
            prompt=pack_u32(ask.prompt), sampling=ask.sampling, arrived_ms=int(self.kernel.now_s * 1000),
        )  # fmt: skip
        for index, choice in enumerate(choices):
            expected = expected_output(submit, index, self._max_model_len)
            self._open[choice.handle] = (ask, index, choice, expected)
            ask.told.append([])
        self._ends[ask.request_id] = ended = Signal()
        self.tell("submits %s: %d tokens, %s", ask.request_id, len(ask.prompt), ask.sampling)
        try:
            yield Call(self._redis.submit, submit, is_repeatable=False)
        except BusUnavailableError:
            self.tell("cannot submit %s", ask.request_id)
            yield from self._close(ask, choices, "rejected")
            return
        ask.is_accepted = True
        if ask.hangs_up_s is not None:
            self.kernel.after(ask.hangs_up_s, ended.set)
        yield ended
        yield from self._close(ask, choices, "disconnect")

    def _close(self, ask: Ask, choices: list[ChoiceStream], reason: str) -> Steps:
        handles = [choice.handle for choice in choices]
        self._routing.close(handles)
        for handle in handles:
            del self._open[handle]
        ask.is_over = True
        if len(ask.ended) == len(choices):
            return
        self.tell("cancels %s: %s", ask.request_id, reason)
        for attempt in range(1, _CANCEL_ATTEMPTS + 1):
            try:
                cancel = Cancel(request_id=ask.request_id, reason=reason)
                yield Call(self._redis.tell_scheduler, cancel, is_repeatable=False)
            except BusUnavailableError:
                yield _RETRY_S * attempt
            else:
                return

    def _follow_feed(self) -> Steps:
        while True:
            if not self._is_subscribed:
                try:
                    yield Call(self._network.subscribe, self.name, self, self._take)
                    self._is_subscribed = True
                except BusUnavailableError:
                    yield self.kernel.rng.random() / 4
                    continue
            while self._published:
                self._routing.receive(self._published.popleft(), self.kernel.now_s)
                self._tell_clients()
                self._must_read.set()
            yield self._has_published

    def _take(self, batch: TokenBatch | None) -> None:
        if batch is None:
            self._is_subscribed = False
        else:
            self._published.append(batch)
        self._has_published.set()

    def _read(self) -> Steps:
        while True:
            yield self._must_read
            try:
                while read := self._routing.next_read():
                    match read:
                        case ReadLog(writer, after):
                            read_to, batches = yield Call(self._redis.backfill, self.gateway_id, writer, after)
                            self._routing.take_log(writer, read_to, batches, self.kernel.now_s)
                        case ListWriters():
                            writers = yield Call(self._redis.writers)
                            self._routing.take_writers(writers)
                    self._tell_clients()
            except BusUnavailableError:
                self._routing.give_up()

    def _watch(self) -> Steps:
        while True:
            yield QUIET_S
            self._routing.watch(self.kernel.now_s)
            self._must_read.set()

    def _show_life(self) -> Steps:
        while True:
            try:
                yield Call(self._redis.beat, f"g:{self.gateway_id}", self.name)
            except BusUnavailableError:
                self.tell("no heartbeat")
            yield HEARTBEAT_INTERVAL_S

    def _tell_clients(self) -> None:
        for handle in self._routing.take_changed():
            ask, index, choice, (expected, finish) = self._open[handle]
            told = ask.told[index]
            told += choice.take()[0]
            self.tell("tells %s/%d: %d tokens %s", ask.request_id, index, len(told), choice.finish.name)
            if choice.fault is not None and not self._may_fail(ask, choice.fault):
                raise Violation(f"{ask.request_id}/{index} failed: {choice.fault}")
            if told != expected[: len(told)]:
                raise Violation(f"{ask.request_id}/{index} was told {told}, the model says {expected}")
            if choice.is_finished:
                if choice.fault is None and (told != expected or choice.finish is not finish):
                    raise Violation(f"{ask.request_id}/{index} ended as {choice.finish} after {len(told)} tokens")
                ask.ended[index] = choice.finish
                if len(ask.ended) == ask.sampling.n:
                    self._ends[ask.request_id].set()

    def _may_fail(self, ask: Ask, fault: Fault) -> bool:
        """Whether this is a client's or an absent gateway's own fault."""
        is_too_long = len(ask.prompt) >= self._max_model_len
        return is_too_long if fault.status == HTTPStatus.BAD_REQUEST else self.away_s > GRACE_S
