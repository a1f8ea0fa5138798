"""Steps of a runner in this process, planned by the scheduler's core, without a bus: to measure beside the stack."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from gpu_worker.delivery import DeliveryBook
from gpu_worker.runner import Runner, StepOutput
from scheduler_svc.scheduling.scheduler import Scheduler
from shared.ids import Epoch, GatewayId, Handle, RequestId, WorkerId
from shared.messages import StepPlan, Submit
from shared.packing import pack_u32
from shared.sampling import SamplingParams

_WORKER: Final = WorkerId("w1")


def greedy(prompts: Sequence[Sequence[int]], *, max_tokens: int) -> list[Submit]:
    """Requests for these prompts' likeliest continuations."""
    return [
        Submit(
            request_id=RequestId(f"r{index}"),
            gateway_id=GatewayId("g1"),
            handle=Handle(index),
            prompt=pack_u32(prompt),
            sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens),
            arrived_ms=index,
        )
        for index, prompt in enumerate(prompts)
    ]


def steps(runner: Runner, submits: Sequence[Submit], step: Callable[[StepPlan], StepOutput]) -> Iterator[StepPlan]:
    """Run requests to their end; gives each plan after `step`, which is to have the runner compute it."""
    scheduler, book = Scheduler(Epoch(1)), DeliveryBook(_WORKER)
    runner.reset()
    scheduler.add_worker(_WORKER, runner.capabilities)
    for submit in submits:
        scheduler.submit(submit, entry=submit.request_id)
    while scheduler.num_requests and (planned := scheduler.next_plan(_WORKER, now_s=0.0)):
        number, plan = planned
        book.apply(plan)
        output = step(plan)
        yield plan
        scheduler.complete(_WORKER, number, book.result(number, output, compute_us=0))
