"""The scheduler's core and one runner in a single process, without a bus: what `LLM` and the exactness tests run on."""

from collections import deque
from typing import NamedTuple

from gpu_worker.delivery import DeliveryBook
from gpu_worker.runner import Runner
from scheduler_svc.scheduler import Scheduler
from shared.ids import Epoch, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.messages import Cancel, StepPlan, StepResult, Submit
from shared.packing import pack_u32, unpack_u32
from shared.sampling import FinishCode, SamplingParams

_WORKER = WorkerId("local")
_GATEWAY = GatewayId("local")


class ChoiceOutput(NamedTuple):
    """Tokens that one choice of a request got in a step.

    Attributes:
        num_cached_tokens: Prompt tokens found in the prefix cache; known with the first output token, else None.
        fault: Why, if `finish` is ERROR.
    """

    request_id: RequestId
    choice: int
    token_ids: tuple[int, ...]
    finish: FinishCode
    num_cached_tokens: int | None = None
    fault: str = ""


class LocalEngine:
    """Runs requests to their end, step by step, in the thread that calls.

    Plans and results are the same messages as on the bus, planned as far ahead, so that tokens do not depend on which
    of the two ways a request goes.
    """

    def __init__(self, runner: Runner) -> None:
        self.scheduler = Scheduler(Epoch(1))
        self._runner = runner
        self._book = DeliveryBook(_WORKER)
        self._plans: deque[tuple[StepId, StepPlan]] = deque()
        self._choices: dict[Handle, tuple[RequestId, int]] = {}
        self._num_submitted = 0
        self._num_handles = 0
        self.scheduler.add_worker(_WORKER, runner.capabilities)

    @property
    def has_unfinished_requests(self) -> bool:
        """Whether another `step` would do something for somebody."""
        return self.scheduler.num_requests > 0

    def submit(self, prompt: list[int], sampling: SamplingParams, *, cache_salt: str = "") -> RequestId:
        """Enqueue a prompt of token ids."""
        request_id = RequestId(f"local-{self._num_submitted}")
        handle = Handle(self._num_handles)
        self._choices |= {Handle(handle + choice): (request_id, choice) for choice in range(sampling.n)}
        submit = Submit(
            request_id=request_id,
            gateway_id=_GATEWAY,
            handle=handle,
            prompt=pack_u32(prompt),
            sampling=sampling,
            arrived_ms=self._num_submitted,
            cache_salt=cache_salt,
        )
        self._num_submitted += 1
        self._num_handles += sampling.n
        self.scheduler.submit(submit, entry=request_id)
        return request_id

    def cancel(self, request_id: RequestId) -> None:
        """End a request; it gets no further output."""
        self.scheduler.cancel(Cancel(request_id=request_id, reason="cancelled"))
        self._choices = {handle: choice for handle, choice in self._choices.items() if choice[0] != request_id}

    def step(self) -> list[ChoiceOutput]:
        """Run the next plan and return what it produced."""
        while planned := self.scheduler.next_plan(_WORKER, now_s=0.0):
            self._plans.append(planned)
        outputs = self._take_faults()
        if self._plans:
            step, plan = self._plans.popleft()
            self._book.apply(plan)
            result = self._book.result(step, self._runner.step(plan), compute_us=0)
            self.scheduler.complete(_WORKER, step, result)
            outputs += self._outputs(result)
        return outputs

    def _take_faults(self) -> list[ChoiceOutput]:
        return [
            ChoiceOutput(*self._choices.pop(fault.handle), (), FinishCode.ERROR, fault=fault.message)
            for _, fault in self.scheduler.take_outcomes().faults
        ]

    def _outputs(self, result: StepResult) -> list[ChoiceOutput]:
        outputs = []
        for batch in result.batches:
            tokens, cached = iter(unpack_u32(batch.tokens)), iter(unpack_u32(batch.cached))
            handles, indices = unpack_u32(batch.handles), unpack_u32(batch.indices)
            for handle, index, count, finish in zip(handles, indices, batch.counts, batch.finishes, strict=True):
                token_ids = tuple(next(tokens) for _ in range(count))
                num_cached = next(cached) if index == 0 else None
                if choice := self._choices.get(Handle(handle)):  # else it was cancelled while this step was under way
                    outputs.append(ChoiceOutput(*choice, token_ids, FinishCode(finish), num_cached))
                if finish != FinishCode.RUNNING:
                    self._choices.pop(Handle(handle), None)
            outputs += [
                ChoiceOutput(*self._choices.pop(fault.handle), (), FinishCode.ERROR, fault=fault.message)
                for fault in batch.faults
            ]
        return outputs
