"""The whole of the scheduler's mind: events in, plans out. No I/O, no clock; time is an argument."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from scheduler_svc.accounting.usage import record_of
from scheduler_svc.quarantine.autopsy import poison_fault
from scheduler_svc.quarantine.isolation import Isolation
from scheduler_svc.scheduling.answers import answers
from scheduler_svc.scheduling.batching import Batch, admit_waiting, fork_choices, give_way, schedule_running
from scheduler_svc.scheduling.deadlines import Deadlines, expiry_fault
from scheduler_svc.scheduling.outcomes import Outcomes
from scheduler_svc.scheduling.progress import Progress
from scheduler_svc.scheduling.request import Request
from scheduler_svc.scheduling.routing import Candidate, choose_worker
from scheduler_svc.scheduling.sequence import Phase, Sequence
from scheduler_svc.scheduling.waiting_queue import WaitingQueue
from scheduler_svc.scheduling.worker import PlanRecord, Worker
from shared.cached_blocks import NOTHING_CACHED, CachedBlocks
from shared.dead_letters import Case
from shared.ids import Epoch, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.messages import Attach, Cancel, Fault, StepPlan, StepResult, Submit, TokenBatch, WorkerCapabilities

MAX_EARLY_CANCELS = 4096
"""Cancels of unknown requests that are remembered. Requests and control are two streams: a cancel may be read first."""

KEEP_AFTER = 128
"""Output tokens of a running sequence that logs alone may hold. A log holds more results than these and those of the
time between two calls of `keep_outputs`, however large they are."""

_GATEWAY_GONE = "The gateway was not heard of for so long that this request was given up."


class Scheduler:
    """Requests, sequences and workers of one pool, for one term of leadership.

    Every accepted request ends once: its entry appears in exactly one `Outcomes`.

    Args:
        epoch: The term's.
        keep_after: Output tokens of a running sequence that logs alone may hold.

    Attributes:
        workers: By id.
        waiting: Sequences that hold nothing.
        num_preemptions: Since the beginning.
        num_prompt_tokens: Prompt tokens of sequences admitted for the first time.
        num_cached_tokens: Those of them that a prefix cache held.
        num_finished: Requests ended.
    """

    def __init__(self, epoch: Epoch, *, keep_after: int = KEEP_AFTER) -> None:
        self.epoch = epoch
        self._keep_after = keep_after
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
        self._isolation = Isolation(self.workers, self._requests)
        self._deadlines = Deadlines()
        self._outcomes = Outcomes()

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

    def submit(
        self,
        submit: Submit,
        *,
        entry: str,
        progress: Mapping[int, Progress] | None = None,
        case: Case | None = None,
    ) -> None:
        """Take a request on.

        Args:
            submit: What the gateway asks.
            entry: The bus's name for it; given back in `Outcomes.finished`.
            progress: By choice, what was told to the client before.
            case: What an earlier leader held against it.
        """
        if submit.request_id in self._early_cancels:
            self._outcomes.finished.append(entry)
            return
        progress = progress or {}
        if request := self._requests.get(submit.request_id):
            self._submit_again(request, entry, progress)
            return
        sequences = []
        for choice in range(submit.sampling.n):
            self._num_submitted += 1
            told = progress.get(choice, Progress())
            sequences.append(Sequence.resume(submit, choice, order=self._num_submitted, progress=told))
        request = self._requests[submit.request_id] = Request(submit, entry=entry, sequences=sequences)
        self._deadlines.add(submit)
        self._enqueue(sequences)
        for sequence in sequences:
            if progress.get(sequence.choice, Progress()).is_finished:
                self._finish(sequence)
            else:
                self._outcomes.keep_output(sequence)
        self._reject_if_too_long(sequences)
        if case is not None and not request.is_finished:
            self._reopen(request, case)

    def keep_outputs(self) -> None:
        """Have outputs kept of which the logs may soon hold no longer all: they reach back only so far."""
        for worker in self.workers.values():
            for sequence in worker.running:
                if sequence.num_unkept_tokens >= self._keep_after:
                    self._outcomes.keep_output(sequence)
        for sequence in self.waiting:
            self._outcomes.keep_output(sequence)

    def cancel(self, cancel: Cancel) -> None:
        """End a request, or one choice of it. An unknown one has ended already, or its `Submit` is still to come."""
        request = self._requests.get(cancel.request_id)
        if request is None:
            self._early_cancels[cancel.request_id] = None
            if len(self._early_cancels) > MAX_EARLY_CANCELS:
                self._early_cancels.popitem(last=False)
            return
        meant = [sequence for sequence in request.sequences if cancel.choice in {None, sequence.choice}]
        for sequence, num_taken_tokens in zip(meant, cancel.delivered, strict=False):
            sequence.num_taken_tokens = num_taken_tokens
        for sequence in meant:
            self._finish(sequence)

    def expire(self, *, now_ms: int) -> None:
        """End requests whose deadline has passed, wherever they are.

        Args:
            now_ms: Unix time.
        """
        for request_id in self._deadlines.take_expired(now_ms):
            if request := self._requests.get(request_id):
                self._fail(request, [expiry_fault(request, sequence) for sequence in request.sequences])

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
            self._fail(request, [Fault(sequence.handle, 503, _GATEWAY_GONE) for sequence in request.sequences])
        return len(orphans)

    def add_worker(
        self,
        worker_id: WorkerId,
        capabilities: WorkerCapabilities,
        cached: CachedBlocks = NOTHING_CACHED,
    ) -> None:
        """Give work to a worker from now on. One that is known already is left as it is.

        Args:
            worker_id: A new name.
            capabilities: What it can hold and compute.
            cached: What its blocks hold before its first plan.
        """
        if worker_id not in self.workers:
            self.workers[worker_id] = Worker(worker_id, capabilities, self.epoch, cached)
            for request in list(self._requests.values()):
                self._reject_if_too_long(request.sequences)

    def suspend_worker(self, worker_id: WorkerId) -> None:
        """Send a worker no further plan. What it has may still be answered."""
        self.workers[worker_id].is_suspended = True

    def remove_worker(self, worker_id: WorkerId, *, death: str = "", now_ms: int = 0) -> int:
        """Forget a worker and let its sequences wait for another; say how many there were.

        Its result stream must be sealed, and every result in it completed, before: what was told to a client must not
        be computed again.

        Args:
            worker_id: Whom to forget.
            death: Why it is taken for dead; empty if it left on purpose, and nobody is to blame.
            now_ms: Unix time.
        """
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return 0
        for record in worker.in_flight.values():
            for row in record.rows.values():
                row.sequence.num_plans_in_flight -= 1
        displaced = list(worker.running)
        self._displace(worker, displaced)
        if not death:
            self._isolation.worker_left(worker)
        elif guilty := self._isolation.worker_died(worker, death, self._outcomes, now_ms=now_ms):
            self._fail(guilty, map(poison_fault, guilty.sequences))
        return len(displaced)

    def next_plan(self, worker_id: WorkerId, *, now_s: float) -> tuple[StepId, StepPlan] | None:
        """The worker's next step, or None if it is gone, has enough in flight, or there is nothing to tell it."""
        worker = self.workers.get(worker_id)
        if worker is None or not worker.may_plan:
            return None
        if clearing := self._isolation.begin_trial():
            self._displace(clearing.worker, clearing.sequences)
            self.num_preemptions += len(clearing.sequences)
        if not (worker.running or len(self.waiting) or worker.has_released):
            return None
        if worker.in_flight and worker.has_released and not (worker.running or len(self.waiting)):
            return None
        batch = Batch(worker)
        self._fork(batch)
        give_way(batch, self._isolation.eligible(self.waiting, worker), self._choose)
        schedule_running(batch)
        for victim in batch.preempted:
            self.num_preemptions += 1
            self._requeue(victim)
        for sequence in admit_waiting(batch, self._isolation.eligible(self.waiting, worker), self._choose):
            self.waiting.remove(sequence)
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
        for sequence, samples, start, stop in record.rows.values():
            sequence.num_plans_in_flight -= 1
            if not sequence.is_finished:
                sequence.work.add(start, stop)
            if samples and sequence.phase is Phase.RUNNING:
                sequence.num_sampling -= 1
        worker.pace.observe(result.num_tokens, result.compute_us)
        for batch in result.batches:
            self._commit(worker, record, batch)
        self._isolation.review()

    def take_outcomes(self) -> Outcomes:
        """What has happened since the last call."""
        outcomes, self._outcomes = self._outcomes, Outcomes()
        return outcomes

    def check(self) -> None:
        """Assert the invariants of everything here."""
        self.waiting.check()
        self._isolation.check()
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
            self._outcomes.finished.append(request.entry)
            request.entry = entry
            self._isolation.refile(request, self._outcomes)
        for choice, told in progress.items():
            sequence = request.sequences[choice]
            if told.is_finished:
                self._finish(sequence)
            elif not sequence.is_finished and not sequence.has_output(told.output):
                self._replace(request, sequence, told.output)

    def _replace(self, request: Request, sequence: Sequence, output: tuple[int, ...]) -> None:
        """Go on after another output than was known here. What is under way for the old sequence comes to nothing."""
        self._withdraw(sequence)
        successor = request.sequences[sequence.choice] = sequence.successor(request.submit, output)
        self._requeue(successor)
        self._forget_if_forked(request)

    def _commit(self, worker: Worker, record: PlanRecord, batch: TokenBatch) -> None:
        for sequence, start, tokens, is_last in answers(worker.worker_id, record, batch):
            if sequence.is_finished or sequence.num_output_tokens != start:
                continue
            sequence.tokens.extend(tokens)
            if is_last:
                self._finish(sequence)
            elif sequence.phase is Phase.RUNNING:
                worker.publish(sequence)
        for fault in batch.faults:
            self._finish_handle(batch.gateway_id, fault.handle, record)

    def _finish_handle(self, gateway_id: GatewayId, handle: Handle, record: PlanRecord) -> None:
        for row in record.rows.values():
            if row.sequence.gateway_id == gateway_id and row.sequence.handle == handle:
                self._finish(row.sequence)

    def _finish(self, sequence: Sequence) -> None:
        """The one way a sequence ends."""
        if sequence.is_finished:
            return
        self._withdraw(sequence)
        request = self._requests[sequence.request_id]
        self._release_children(sequence)
        self._forget_if_forked(request)
        if request.is_finished:
            del self._requests[sequence.request_id]
            self._isolation.forget(request)
            self._outcomes.finished.append(request.entry)
            self._outcomes.usage[request.entry] = record_of(request)
            self._outcomes.dropped += [choice.address for choice in request.sequences if choice.is_kept]
            self.num_finished += 1
        else:
            self._outcomes.keep_end(sequence)

    def _withdraw(self, sequence: Sequence) -> None:
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

    def _fail(self, request: Request, faults: Iterable[Fault]) -> None:
        """End those choices of a request that have not ended, each with its fault."""
        for sequence, fault in zip(request.sequences, faults, strict=True):
            if not sequence.is_finished:
                self._outcomes.faults.append((sequence.gateway_id, fault))
                self._finish(sequence)

    def _reopen(self, request: Request, case: Case) -> None:
        """Go on with what an earlier leader held against a request, if it did not come to give it up."""
        if case.is_closed:
            self._fail(request, map(poison_fault, request.sequences))
        else:
            self._isolation.resume(request, case)

    def _displace(self, worker: Worker, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            worker.displace(sequence, Phase.WAITING)
            self._requeue(sequence)

    def _requeue(self, sequence: Sequence) -> None:
        """A sequence that lost its place waits again; whoever wanted to branch off it no longer waits for that."""
        self.waiting.push(sequence)
        self._outcomes.keep_output(sequence)
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
            if worker.is_suspended or not worker.has_free_slot or not self._isolation.may_run(sequence, worker):
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
                self._outcomes.faults.append((sequence.gateway_id, Fault(sequence.handle, 400, message)))
                self._finish(sequence)
