"""The whole of the scheduler's mind: events in, plans out. No I/O, no clock; time is an argument."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from scheduler_svc.batching import Batch, admit_waiting, fork_choices, give_way, schedule_running
from scheduler_svc.request import Request
from scheduler_svc.routing import Candidate, choose_worker
from scheduler_svc.sequence import Phase, Sequence
from scheduler_svc.waiting_queue import WaitingQueue
from scheduler_svc.worker import PlanRecord, Worker
from shared.errors import MessageError, PlanError
from shared.ids import Epoch, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.messages import Attach, Cancel, Fault, StepPlan, StepResult, Submit, TokenBatch, WorkerCapabilities
from shared.packing import unpack_u16, unpack_u32
from shared.sampling import FinishCode

MAX_EARLY_CANCELS = 4096
"""Cancels of unknown requests that are remembered. Requests and control are two streams: a cancel may be read first."""

_GATEWAY_GONE = "The gateway was not heard of for so long that this request was given up."


class Outcomes(NamedTuple):
    """What the world must be told.

    Attributes:
        finished: Bus entries of requests that reached their terminal state.
        faults: Terminal events that no worker's result carries.
    """

    finished: list[str]
    faults: list[tuple[GatewayId, Fault]]


class Progress(NamedTuple):
    """What a choice had already told its client.

    Attributes:
        output: Its tokens.
        is_finished: Whether the last of them ended it.
    """

    output: tuple[int, ...] = ()
    is_finished: bool = False


class Scheduler:
    """Requests, sequences and workers of one pool, for one term of leadership.

    Every accepted request ends once: its entry appears in exactly one `Outcomes`.

    Attributes:
        workers: By id.
        waiting: Sequences that hold nothing.
        num_preemptions: Since the beginning.
        num_prompt_tokens: Prompt tokens of sequences admitted for the first time.
        num_cached_tokens: Those of them that a prefix cache held.
        num_finished: Requests ended.
    """

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.workers: dict[WorkerId, Worker] = {}
        self.waiting = WaitingQueue()
        self.num_preemptions = 0
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.num_finished = 0
        self._requests: dict[RequestId, Request] = {}
        self._forking: dict[RequestId, Request] = {}
        self._early_cancels: OrderedDict[RequestId, None] = OrderedDict()
        self._num_submitted = 0
        self._finished: list[str] = []
        self._faults: list[tuple[GatewayId, Fault]] = []

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        sequences = (sequence for request in self._forking.values() for sequence in request.sequences)
        return len(self.waiting) + sum(1 for sequence in sequences if sequence.phase is Phase.FORKING)

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return sum(len(worker.running) for worker in self.workers.values())

    @property
    def max_model_len(self) -> int:
        """Tokens of one sequence that every worker can hold; 0 without workers."""
        return min((worker.capabilities.max_model_len for worker in self.workers.values()), default=0)

    def gateways(self) -> set[GatewayId]:
        """Those that follow requests here."""
        return {request.follower for request in self._requests.values()}

    def submit(self, submit: Submit, *, entry: str, progress: Mapping[int, Progress] | None = None) -> None:
        """Take a request on.

        Args:
            submit: What the gateway asks.
            entry: The bus's name for it; given back in `Outcomes.finished`.
            progress: By choice, what was told to the client before.
        """
        if submit.request_id in self._early_cancels:
            self._finished.append(entry)
            return
        progress = progress or {}
        if request := self._requests.get(submit.request_id):
            self._submit_again(request, entry, progress)
            return
        sequences = []
        for choice in range(submit.sampling.n):
            self._num_submitted += 1
            told = progress.get(choice, Progress())
            sequences.append(Sequence(submit, choice, order=self._num_submitted, output=told.output))
        self._requests[submit.request_id] = Request(submit, entry=entry, sequences=sequences)
        self._enqueue(sequences)
        for sequence in sequences:
            if progress.get(sequence.choice, Progress()).is_finished:
                self._finish(sequence)
        self._reject_if_too_long(sequences)

    def cancel(self, cancel: Cancel) -> None:
        """End a request, or one choice of it. An unknown one has ended already, or its `Submit` is still to come."""
        request = self._requests.get(cancel.request_id)
        if request is None:
            self._early_cancels[cancel.request_id] = None
            if len(self._early_cancels) > MAX_EARLY_CANCELS:
                self._early_cancels.popitem(last=False)
            return
        for sequence in request.sequences:
            if cancel.choice in {None, sequence.choice}:
                self._finish(sequence)

    def attach(self, attach: Attach) -> bool:
        """Let another gateway follow a request. Whether there is such a request."""
        request = self._requests.get(attach.request_id)
        if request is None:
            return False
        request.follower = attach.follower
        return True

    def cancel_gateway(self, gateway_id: GatewayId) -> int:
        """End all requests that a gateway followed which is gone. Should it come back, it is told; says how many."""
        orphans = [request for request in self._requests.values() if request.follower == gateway_id]
        for request in orphans:
            for sequence in request.sequences:
                if not sequence.is_finished:
                    self._faults.append((sequence.gateway_id, Fault(sequence.handle, 503, _GATEWAY_GONE)))
                    self._finish(sequence)
        return len(orphans)

    def add_worker(self, worker_id: WorkerId, capabilities: WorkerCapabilities) -> None:
        """Give work to a worker from now on. One that is known already is left as it is."""
        if worker_id not in self.workers:
            self.workers[worker_id] = Worker(worker_id, capabilities, self.epoch)
            for request in list(self._requests.values()):
                self._reject_if_too_long(request.sequences)

    def suspend_worker(self, worker_id: WorkerId) -> None:
        """Send a worker no further plan. What it has may still be answered."""
        self.workers[worker_id].is_suspended = True

    def remove_worker(self, worker_id: WorkerId) -> int:
        """Forget a worker and let its sequences wait for another; say how many there were.

        Its result stream must be sealed, and every result in it completed, before: what was told to a client must not
        be computed again.
        """
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return 0
        for record in worker.in_flight.values():
            for sequence, _ in record.rows.values():
                sequence.num_plans_in_flight -= 1
        displaced = list(worker.running)
        for sequence in displaced:
            worker.displace(sequence, Phase.WAITING)
            self._requeue(sequence)
        return len(displaced)

    def next_plan(self, worker_id: WorkerId, *, now_s: float) -> tuple[StepId, StepPlan] | None:
        """The worker's next step, or None if it is gone, has enough in flight, or there is nothing to tell it."""
        worker = self.workers.get(worker_id)
        if worker is None or not worker.may_plan:
            return None
        if not (worker.running or len(self.waiting) or worker.has_released):
            return None
        if worker.in_flight and worker.has_released and not (worker.running or len(self.waiting)):
            return None
        batch = Batch(worker)
        self._fork(batch)
        give_way(batch, self.waiting, self._choose)
        schedule_running(batch)
        for victim in batch.preempted:
            self.num_preemptions += 1
            self._requeue(victim)
        admit_waiting(batch, self.waiting, self._choose)
        self.num_prompt_tokens += batch.num_prompt_tokens
        self.num_cached_tokens += batch.num_cached_tokens
        if batch.is_empty:
            return None
        return worker.send(batch.record(now_s=now_s)), batch.plan()

    def complete(self, worker_id: WorkerId, step: StepId, result: StepResult) -> None:
        """Commit what a step produced. Answers to plans that are not in flight are ignored.

        Raises:
            PlanError: the result does not answer the plan. The worker must not go on.
        """
        worker = self.workers.get(worker_id)
        record = worker.in_flight.pop(step, None) if worker else None
        if worker is None or record is None:
            return
        for sequence, samples in record.rows.values():
            sequence.num_plans_in_flight -= 1
            if samples and sequence.phase is Phase.RUNNING:
                sequence.num_sampling -= 1
        for batch in result.batches:
            self._commit(worker, record, batch)

    def stalled_s(self, worker_id: WorkerId, *, now_s: float) -> float:
        """How long the oldest plan in flight has been unanswered."""
        record = next(iter(self.workers[worker_id].in_flight.values()), None)
        return now_s - record.sent_at_s if record else 0.0

    def kv_cache_usage(self) -> float:
        """Held blocks of all workers, from 0 to 1."""
        total = sum(worker.pool.num_blocks for worker in self.workers.values())
        free = sum(worker.pool.num_free for worker in self.workers.values())
        return 1 - free / total if total else 0.0

    def kv_cache_unused_ratio(self) -> float:
        """Slots that no token has, of all slots of held blocks, from 0 to 1. Tokens of plans in flight have theirs."""
        held = sum(worker.num_held_slots for worker in self.workers.values())
        unused = sum(worker.num_unused_slots for worker in self.workers.values())
        return unused / held if held else 0.0

    def take_outcomes(self) -> Outcomes:
        """What has happened since the last call."""
        outcomes = Outcomes(self._finished, self._faults)
        self._finished, self._faults = [], []
        return outcomes

    def check(self) -> None:
        """Assert the invariants of everything here."""
        self.waiting.check()
        for worker in self.workers.values():
            worker.check()
        sequences = [sequence for request in self._requests.values() for sequence in request.sequences]
        phases = [sequence.phase for sequence in sequences]
        assert phases.count(Phase.WAITING) == len(self.waiting)
        assert phases.count(Phase.RUNNING) == self.num_running
        for request in self._requests.values():
            assert not request.is_finished
            forking = any(sequence.phase is Phase.FORKING for sequence in request.sequences)
            assert forking == (request.submit.request_id in self._forking)

    def _submit_again(self, request: Request, entry: str, progress: Mapping[int, Progress]) -> None:
        """A gateway has missed a request that is here. What its client was told counts, whatever the logs say."""
        if entry != request.entry:
            self._finished.append(request.entry)
            request.entry = entry
        for choice, told in progress.items():
            sequence = request.sequences[choice]
            if told.is_finished:
                self._finish(sequence)
            elif not sequence.is_finished and not sequence.has_output(told.output):
                self._replace(request, sequence, told.output)

    def _replace(self, request: Request, sequence: Sequence, output: tuple[int, ...]) -> None:
        """Go on after another output than was known here. What is under way for the old sequence comes to nothing."""
        self._displace(sequence)
        order = sequence.order[-1]
        request.sequences[sequence.choice] = Sequence(request.submit, sequence.choice, order=order, output=output)
        self._requeue(request.sequences[sequence.choice])
        self._forget_if_forked(request)

    def _commit(self, worker: Worker, record: PlanRecord, batch: TokenBatch) -> None:
        try:
            tokens, slots, indices = unpack_u32(batch.tokens), unpack_u16(batch.slots), unpack_u32(batch.indices)
        except MessageError as error:
            raise PlanError(f"worker {worker.worker_id} answered step {batch.step} with nonsense: {error}") from error
        lengths = {len(slots), len(indices), len(batch.counts), len(batch.finishes)}
        if len(lengths) > 1 or sum(batch.counts) != len(tokens):
            raise PlanError(f"worker {worker.worker_id} answered step {batch.step} with arrays of different lengths")
        start = 0
        for slot, index, count, finish in zip(slots, indices, batch.counts, batch.finishes, strict=True):
            if slot not in record.rows:
                raise PlanError(f"worker {worker.worker_id} answered slot {slot}, which step {batch.step} did not name")
            sequence, _ = record.rows[slot]
            if not sequence.is_finished and sequence.num_output_tokens == index:
                sequence.tokens.extend(tokens[start : start + count])
                if finish != FinishCode.RUNNING:
                    self._finish(sequence)
                elif sequence.phase is Phase.RUNNING:
                    worker.publish(sequence)
            start += count
        for fault in batch.faults:
            self._finish_handle(batch.gateway_id, fault.handle, record)

    def _finish_handle(self, gateway_id: GatewayId, handle: Handle, record: PlanRecord) -> None:
        for sequence, _ in record.rows.values():
            if sequence.gateway_id == gateway_id and sequence.handle == handle:
                self._finish(sequence)

    def _finish(self, sequence: Sequence) -> None:
        """The one way a sequence ends."""
        if sequence.is_finished:
            return
        self._displace(sequence)
        request = self._requests[sequence.request_id]
        self._release_children(sequence)
        self._forget_if_forked(request)
        if request.is_finished:
            del self._requests[sequence.request_id]
            self._finished.append(request.entry)
            self.num_finished += 1

    def _displace(self, sequence: Sequence) -> None:
        """Take a sequence from where it is. It holds nothing any more."""
        match sequence.phase:
            case Phase.RUNNING:
                assert sequence.worker_id is not None
                self.workers[sequence.worker_id].displace(sequence, Phase.FINISHED)
            case Phase.WAITING:
                self.waiting.remove(sequence)
            case Phase.FORKING | Phase.FINISHED:
                pass
        sequence.phase = Phase.FINISHED

    def _requeue(self, sequence: Sequence) -> None:
        """A sequence that lost its place waits again; whoever wanted to branch off it no longer waits for that."""
        self.waiting.push(sequence)
        self._release_children(sequence)

    def _release_children(self, parent: Sequence) -> None:
        if parent.choice == 0 and (request := self._forking.pop(parent.request_id, None)):
            for child in request.sequences[1:]:
                if child.phase is Phase.FORKING:
                    child.phase = Phase.WAITING
                    self.waiting.push(child)

    def _fork(self, batch: Batch) -> None:
        """Let choices branch off the parents they wait for."""
        for request in list(self._forking.values()):
            parent, *siblings = request.sequences
            fork_choices(batch, parent, [child for child in siblings if child.phase is Phase.FORKING])
            self._forget_if_forked(request)

    def _forget_if_forked(self, request: Request) -> None:
        if not any(sequence.phase is Phase.FORKING for sequence in request.sequences):
            self._forking.pop(request.submit.request_id, None)

    def _choose(self, sequence: Sequence) -> WorkerId | None:
        candidates = []
        for worker in self.workers.values():
            if worker.is_suspended or not worker.has_free_slot:
                continue
            prefix = worker.match_prefix(sequence)
            if worker.has_room(sequence, prefix):
                num_uncached = sequence.num_tokens - len(prefix) * worker.block_size
                candidates.append(
                    Candidate(worker.worker_id, num_uncached, worker.num_pending_tokens, len(worker.running))
                )
        return choose_worker(candidates)

    def _enqueue(self, sequences: list[Sequence]) -> None:
        """Choice 0 waits for a worker; the others, unless they are under way, wait to branch off it."""
        for sequence in sequences:
            if sequence.choice == 0 or sequence.num_output_tokens:
                self.waiting.push(sequence)
            else:
                sequence.phase = Phase.FORKING
                self._forking[sequence.request_id] = self._requests[sequence.request_id]

    def _reject_if_too_long(self, sequences: list[Sequence]) -> None:
        """End what no worker's context can hold."""
        longest = max((worker.capabilities.max_model_len for worker in self.workers.values()), default=None)
        for sequence in sequences:
            if longest is not None and sequence.num_tokens >= longest and not sequence.is_finished:
                message = f"The prompt has {sequence.num_prompt_tokens} tokens; the model's context holds {longest}."
                self._faults.append((sequence.gateway_id, Fault(sequence.handle, 400, message)))
                self._finish(sequence)
