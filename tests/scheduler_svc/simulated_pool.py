"""A scheduler core with fake workers, one event at a time: no bus, no clock, any interleaving."""

from collections import deque
from dataclasses import dataclass, field

from gateway.streaming.token_logprobs import TokenLogprobs, unpack_logprobs
from gpu_worker.delivery import DeliveryBook
from gpu_worker.fake_embedding import fake_embedding
from gpu_worker.fake_logprobs import fake_logprobs
from gpu_worker.fake_runner import FakeRunner, fake_token
from scheduler_svc.scheduling.scheduler import Scheduler
from shared.dead_letters import Case, DeadLetter
from shared.ids import Epoch, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.kept_outputs import KeptOutput, addresses_of
from shared.memory_bus.state import KeptOutputs
from shared.messages import Cancel, StepPlan, StepResult, Submit, TokenBatch, WorkerCapabilities
from shared.packing import pack_u32, unpack_u32
from shared.sampling import FinishCode, Pooling, SamplingParams
from shared.usage import UsageRecord

VOCAB_SIZE = 32_000
GATEWAY = GatewayId("g1")
STOP = 2
KEEP_AFTER = 4


def length_of(request_id: RequestId, choice: int) -> int:
    """Where a request with stop tokens stops by itself."""
    return 1 + (sum(request_id.encode()) + choice) % 7


def capabilities(**changes) -> WorkerCapabilities:
    settings = {
        "model": "fake",
        "block_size": 4,
        "num_blocks": 24,
        "max_model_len": 64,
        "max_num_seqs": 6,
        "max_num_batched_tokens": 16,
    }
    return WorkerCapabilities(**settings | changes)


class WorkerKilledError(Exception):
    """The request that a worker computed has killed it."""


@dataclass
class SimulatedWorker:
    runner: FakeRunner
    book: DeliveryBook
    plans: deque[tuple[StepId, StepPlan]] = field(default_factory=deque)
    results: deque[tuple[StepId, StepResult]] = field(default_factory=deque)


class SimulatedPool:
    """Attributes:
    poison: Position whose computation kills the worker, by request.
    """

    def __init__(self, **worker_changes) -> None:
        self.poison: dict[RequestId, int] = {}
        self.letters: dict[str, DeadLetter] = {}
        self.cases: dict[str, Case] = {}
        self.usage: dict[str, UsageRecord] = {}
        self.num_deaths = 0
        self.kept = KeptOutputs()
        self.core = Scheduler(Epoch(1), keep_after=KEEP_AFTER)
        self.capabilities = capabilities(**worker_changes)
        self.workers: dict[WorkerId, SimulatedWorker] = {}
        self.submitted: dict[RequestId, Submit] = {}
        self.cancelled: set[tuple[RequestId, int]] = set()
        self.outputs: dict[tuple[RequestId, int], list[int]] = {}
        self.cached: dict[tuple[RequestId, int], int] = {}
        self.finishes: dict[tuple[RequestId, int], FinishCode] = {}
        self.faults: dict[int, str] = {}
        self.embeddings: dict[tuple[RequestId, int], bytes] = {}
        self.logprobs: dict[tuple[RequestId, int], list[TokenLogprobs]] = {}
        self.prompt_logprobs: dict[tuple[RequestId, int], dict[int, TokenLogprobs]] = {}
        self.finished: list[str] = []
        self.num_computed = 0
        self._choices: dict[int, tuple[RequestId, int]] = {}
        self._num_workers = 0

    def add_worker(self) -> WorkerId:
        self._num_workers += 1
        worker_id = WorkerId(f"w{self._num_workers}")
        runner = FakeRunner(self.capabilities, length=length_of, vocab_size=VOCAB_SIZE, hazard=self._compute)
        self.workers[worker_id] = SimulatedWorker(runner, DeliveryBook(worker_id))
        self.core.add_worker(worker_id, self.capabilities)
        return worker_id

    def submit(
        self,
        prompt: list[int],
        *,
        n: int = 1,
        max_tokens: int = 8,
        stops: bool = False,
        salt="",
        priority: int = 0,
        pooling: Pooling = Pooling.NONE,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> RequestId:
        request_id = RequestId(f"r{len(self.submitted)}")
        handle = Handle(sum(submit.sampling.n for submit in self.submitted.values()))
        self._choices |= {handle + choice: (request_id, choice) for choice in range(n)}
        sampling = SamplingParams(
            max_tokens=max_tokens, n=n, stop_token_ids=(STOP,) if stops else (), pooling=pooling, logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )  # fmt: skip
        submit = Submit(
            request_id=request_id, gateway_id=GATEWAY, handle=handle, prompt=pack_u32(prompt), sampling=sampling,
            arrived_ms=len(self.submitted), cache_salt=salt, priority=priority,
        )  # fmt: skip
        self.submitted[request_id] = submit
        self.core.submit(submit, entry=request_id)
        self._collect()
        return request_id

    def cancel(self, request_id: RequestId, choice: int | None = None) -> None:
        for index in range(self.submitted[request_id].sampling.n):
            if choice in {None, index}:
                self.cancelled.add((request_id, index))
        self.core.cancel(Cancel(request_id=request_id, choice=choice, reason="test"))
        self._collect()

    def plan(self, worker_id: WorkerId) -> bool:
        planned = self.core.next_plan(worker_id, now_s=0.0)
        if planned:
            self.workers[worker_id].plans.append(planned)
        return planned is not None

    def execute(self, worker_id: WorkerId) -> bool:
        worker = self.workers[worker_id]
        if not worker.plans:
            return False
        step, plan = worker.plans.popleft()
        worker.book.apply(plan)
        try:
            output = worker.runner.step(plan)
        except WorkerKilledError:
            self.num_deaths += 1
            self.kill(worker_id)
            return True
        self.num_computed += output.num_tokens
        worker.results.append((step, worker.book.result(step, output, compute_us=1)))
        return True

    def deliver(self, worker_id: WorkerId) -> bool:
        worker = self.workers[worker_id]
        if not worker.results:
            return False
        step, result = worker.results.popleft()
        self._receive(result)
        self.core.complete(worker_id, step, result)
        self._collect()
        return True

    def kill(self, worker_id: WorkerId) -> None:
        """What was executed is in the sealed log; what was only planned is not."""
        while self.deliver(worker_id):
            pass
        self.core.remove_worker(worker_id, death="killed", now_ms=0)
        del self.workers[worker_id]
        self._collect()

    def leave(self, worker_id: WorkerId) -> None:
        """As `kill`, but on purpose."""
        while self.deliver(worker_id):
            pass
        self.core.remove_worker(worker_id)
        del self.workers[worker_id]
        self._collect()

    def _compute(self, request_id, choice, positions, tokens) -> None:
        if self.poison.get(request_id, -1) in positions:
            raise WorkerKilledError

    def run(self) -> None:
        moved = True
        while moved:
            moved = False
            for worker_id in list(self.workers):
                while self.plan(worker_id):
                    moved = True
                moved |= self.execute(worker_id)
                moved |= worker_id in self.workers and self.deliver(worker_id)

    def output(self, request_id: RequestId, choice: int = 0) -> list[int]:
        return self.outputs.get((request_id, choice), [])

    def expected(self, request_id: RequestId, choice: int = 0) -> list[int]:
        submit = self.submitted[request_id]
        room = self.capabilities.max_model_len - len(submit.prompt) // 4
        count = min(submit.sampling.max_tokens, room)
        tokens = [fake_token(request_id, choice, index, VOCAB_SIZE) for index in range(count)]
        stop_at = length_of(request_id, choice)
        if submit.sampling.stop_token_ids and stop_at <= count:
            return [*tokens[: stop_at - 1], STOP]
        return tokens

    def check_all_done(self) -> None:
        """Every request ended once, with the right tokens, and nothing is left anywhere."""
        self.core.check()
        assert sorted(self.finished) == sorted(self.submitted)
        for handle, key in self._choices.items():
            told = self.output(*key)
            if key in self.cancelled or handle in self.faults:
                assert told == self.expected(*key)[: len(told)]
            else:
                assert told == self.expected(*key), key
                assert key in self.finishes
                submit = self.submitted[key[0]]
                pooling, prompt = submit.sampling.pooling, unpack_u32(submit.prompt)
                expected = fake_embedding(prompt, pooling) if pooling is not Pooling.NONE else None
                assert self.embeddings.get(key) == expected
                self._check_logprobs(key)
        assert self.core.num_requests == 0
        assert len(self.core.waiting) == 0
        for worker in self.core.workers.values():
            assert worker.pool.num_free == worker.pool.num_blocks
            assert not worker.in_flight

    def keep_outputs(self) -> None:
        """Afterwards logs need not reach back any further than over a few tokens of each choice."""
        self.core.keep_outputs()
        self._collect()
        for request_id, submit in self.submitted.items():
            for choice, address in enumerate(addresses_of(submit)):
                told, kept = self.output(request_id, choice), KeptOutput.read(self.kept.at(address))
                is_open = request_id not in self.finished
                has_ended = (request_id, choice) in self.finishes or (request_id, choice) in self.cancelled
                assert list(kept.tokens) == told[: len(kept.tokens)]
                assert kept.is_ended == (is_open and has_ended)
                assert not is_open or has_ended or len(told) - len(kept.tokens) < KEEP_AFTER
                assert is_open or not kept.tokens

    def _check_logprobs(self, key: tuple[RequestId, int]) -> None:
        """Those of all tokens, once each, and of nothing else."""
        submit = self.submitted[key[0]]
        sampling, prompt = submit.sampling, unpack_u32(submit.prompt)
        asked = sampling.logprobs is not None
        expected = unpack_logprobs(fake_logprobs(self.output(*key), sampling.logprobs or 0, VOCAB_SIZE))
        assert self.logprobs.get(key, []) == (expected if asked else [])
        asked = sampling.prompt_logprobs is not None and key[1] == 0
        expected = unpack_logprobs(fake_logprobs(prompt[1:], sampling.prompt_logprobs or 0, VOCAB_SIZE))
        assert self.prompt_logprobs.get(key, {}) == (dict(enumerate(expected, 1)) if asked else {})

    def _receive(self, result: StepResult) -> None:
        for batch in result.batches:
            self._receive_logprobs(batch)
            tokens = iter(unpack_u32(batch.tokens))
            cached = iter(unpack_u32(batch.cached))
            items = zip(unpack_u32(batch.handles), unpack_u32(batch.indices), batch.counts, batch.finishes, strict=True)
            for handle, index, count, finish in items:
                key = self._choices[handle]
                told = self.outputs.setdefault(key, [])
                assert index == len(told), f"{key} got index {index} after {len(told)} tokens"
                assert key not in self.finishes, f"{key} got tokens after its end"
                told += [next(tokens) for _ in range(count)]
                if index == 0:
                    self.cached[key] = next(cached)
                    self._check_prompt_is_told(key)
                if finish != FinishCode.RUNNING:
                    self.finishes[key] = FinishCode(finish)
            for embedding in batch.embeddings:
                key = self._choices[embedding.handle]
                assert key not in self.embeddings
                self.embeddings[key] = embedding.vector

    def _receive_logprobs(self, batch: TokenBatch) -> None:
        for span in batch.logprobs:
            told = self.logprobs.setdefault(self._choices[span.handle], [])
            assert span.start == len(told)
            told += unpack_logprobs(span.logprobs)
        for span in batch.prompt_logprobs:
            known = self.prompt_logprobs.setdefault(self._choices[span.handle], {})
            for place, logprobs in enumerate(unpack_logprobs(span.logprobs), span.start):
                assert known.setdefault(place, logprobs) == logprobs

    def _check_prompt_is_told(self, key: tuple[RequestId, int]) -> None:
        submit = self.submitted[key[0]]
        if submit.sampling.prompt_logprobs is not None and key[1] == 0:
            assert len(self.prompt_logprobs.get(key, {})) == len(unpack_u32(submit.prompt)) - 1

    def _collect(self) -> None:
        outcomes = self.core.take_outcomes()
        assert not outcomes.letters.keys() & self.letters.keys()
        self.cases |= outcomes.cases
        self.letters |= outcomes.letters
        self.usage |= outcomes.usage
        self.finished += outcomes.finished
        self.faults |= {fault.handle: fault.message for _, fault in outcomes.faults}
        for part in [*outcomes.outputs, *outcomes.ends]:
            self.kept.keep(part)
        for address in outcomes.dropped:
            self.kept.drop(address)
