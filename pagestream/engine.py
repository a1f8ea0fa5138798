"""The scheduler's core and one runner in a single process, without a bus: what `LLM` and the exactness tests run on."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from gateway.streaming.gap import items_of
from gateway.streaming.token_logprobs import TokenLogprobs, unpack_logprobs
from gpu_worker.delivery import DeliveryBook
from gpu_worker.runner import Runner, StepOutput
from scheduler_svc.scheduling.scheduler import Scheduler
from shared.ids import Epoch, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.messages import Cancel, Fault, StepPlan, StepResult, Submit
from shared.packing import pack_u32
from shared.sampling import FinishCode, SamplingParams

_WORKER = WorkerId("local")
_GATEWAY = GatewayId("local")


class ChoiceOutput(NamedTuple):
    """Tokens that one choice of a request got in a step.

    Attributes:
        num_cached_tokens: Prompt tokens found in the prefix cache; known with the first output token, else None.
        fault: Why, if `finish` is ERROR.
        logprobs: Of each token, if the request asks for them.
        prompt_logprobs: Of some tokens of the prompt, by their places; there are no output tokens beside them.
        embedding: The prompt as a vector, f32 [hidden_size], with the first token if the request asks for it.
    """

    request_id: RequestId
    choice: int
    token_ids: tuple[int, ...]
    finish: FinishCode
    num_cached_tokens: int | None = None
    fault: str = ""
    logprobs: Sequence[TokenLogprobs] = ()
    prompt_logprobs: Mapping[int, TokenLogprobs] = {}
    embedding: bytes | None = None


class EngineStep(NamedTuple):
    """What a step brought.

    Attributes:
        admitted: Requests that got a place in a plan, and when; those that come back after a preemption included.
    """

    admitted: list[tuple[RequestId, float]]
    outputs: list[ChoiceOutput]


class _PlanInFlight(NamedTuple):
    step: StepId
    plan: StepPlan
    output: "Future[StepOutput]"


class LocalEngine:
    """Runs requests to their end, step by step, for the one thread that calls.

    Plans and results are the same messages as on the bus, planned as far ahead, so that tokens do not depend on which
    of the two ways a request goes. The runner has a thread of its own: it computes the next plan while the caller plans
    on and makes text of the last one's tokens.
    """

    def __init__(self, runner: Runner, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._runner = runner
        self._clock = clock
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._num_submitted = 0
        self._num_handles = 0
        self._num_epochs = 0
        self._begin()

    def _begin(self) -> None:
        self._num_epochs += 1
        self.scheduler = Scheduler(Epoch(self._num_epochs))
        self._book = DeliveryBook(_WORKER)
        self._in_flight: deque[_PlanInFlight] = deque()
        self._handles: dict[RequestId, tuple[Handle, ...]] = {}
        self._choices: dict[Handle, tuple[RequestId, int]] = {}
        self._admitted: list[tuple[RequestId, float]] = []
        self.scheduler.add_worker(_WORKER, self._runner.capabilities)

    @property
    def has_unfinished_requests(self) -> bool:
        """Whether another `step` would do something for somebody."""
        return self.scheduler.num_requests > 0

    def submit(
        self, prompt: list[int], sampling: SamplingParams, *, priority: int = 0, cache_salt: str = ""
    ) -> RequestId:
        """Enqueue a prompt of token ids."""
        request_id = RequestId(f"local-{self._num_submitted}")
        handle = Handle(self._num_handles)
        self._handles[request_id] = tuple(Handle(handle + choice) for choice in range(sampling.n))
        self._choices |= {handle: (request_id, choice) for choice, handle in enumerate(self._handles[request_id])}
        submit = Submit(
            request_id=request_id,
            gateway_id=_GATEWAY,
            handle=handle,
            prompt=pack_u32(prompt),
            sampling=sampling,
            arrived_ms=self._num_submitted,
            priority=priority,
            cache_salt=cache_salt,
        )
        self._num_submitted += 1
        self._num_handles += sampling.n
        self.scheduler.submit(submit, entry=request_id)
        return request_id

    def cancel(self, request_id: RequestId, choice: int | None = None) -> None:
        """End a request, or one choice of it; it gets no further output."""
        self.scheduler.cancel(Cancel(request_id=request_id, reason="cancelled", choice=choice))
        for place, handle in enumerate(self._handles.get(request_id, ())):
            if choice in {None, place}:
                self._choices.pop(handle, None)

    def step(self) -> EngineStep:
        """Wait for the next plan's tokens, and let the one after it be computed meanwhile.

        Raises:
            Exception: what the runner raised. Only `reset` helps then.
        """
        self._send_plans()
        outputs: list[ChoiceOutput] = []
        if self._in_flight:
            step, plan, computing = self._in_flight[0]
            output = computing.result()
            self._in_flight.popleft()  # not before: whoever interrupts the wait has `reset` wait for the rest
            self._book.apply(plan)
            result = self._book.result(step, output, compute_us=0)
            self.scheduler.complete(_WORKER, step, result)
            self._send_plans()
            outputs += self._outputs(result)
        outputs += self._take_outcomes()
        admitted, self._admitted = self._admitted, []
        return EngineStep(admitted, outputs)

    def reset(self) -> None:
        """Forget all requests and the prefix cache, whatever happened before."""
        wait([plan.output for plan in self._in_flight if not plan.output.cancel()])
        self._runner.reset()
        self._begin()

    def _send_plans(self) -> None:
        while planned := self.scheduler.next_plan(_WORKER, now_s=0.0):
            step, plan = planned
            self._in_flight.append(_PlanInFlight(step, plan, self._computing.submit(self._runner.step, plan)))
            now_s = self._clock()
            self._admitted += [(admitted.request_id, now_s) for admitted in plan.admitted]

    def _take_outcomes(self) -> list[ChoiceOutput]:
        outcomes = self.scheduler.take_outcomes()
        for request_id in outcomes.finished:
            del self._handles[RequestId(request_id)]
        return [self._failed(fault) for _, fault in outcomes.faults]

    def _outputs(self, result: StepResult) -> list[ChoiceOutput]:
        """What a result holds for choices that have not been cancelled while it was under way."""
        outputs = []
        for batch in result.batches:
            for span in batch.prompt_logprobs:
                if choice := self._choices.get(span.handle):
                    told = dict(enumerate(unpack_logprobs(span.logprobs), span.start))
                    outputs.append(ChoiceOutput(*choice, (), FinishCode.RUNNING, prompt_logprobs=told))
            vectors = {embedding.handle: embedding.vector for embedding in batch.embeddings}
            for item in items_of(batch):
                if choice := self._choices.get(item.handle):
                    outputs.append(
                        ChoiceOutput(
                            *choice,
                            tuple(item.tokens),
                            item.finish,
                            item.num_cached_tokens if item.position == 0 else None,
                            logprobs=item.logprobs,
                            embedding=vectors.get(item.handle),
                        )
                    )
                if item.finish is not FinishCode.RUNNING:
                    self._choices.pop(item.handle, None)
            outputs += [self._failed(fault) for fault in batch.faults if fault.handle in self._choices]
        return outputs

    def _failed(self, fault: Fault) -> ChoiceOutput:
        return ChoiceOutput(*self._choices.pop(fault.handle), (), FinishCode.ERROR, fault=fault.message)
