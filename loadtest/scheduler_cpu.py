"""`make bench-scheduler`: what a plan costs the scheduler, with 256 running sequences and a fake worker.

A plan's cost is that of deciding and encoding it, and of decoding its result and committing its tokens.
"""

import statistics
import time

from gpu_worker.delivery import DeliveryBook
from gpu_worker.fake_runner import FakeRunner
from scheduler_svc.scheduling.scheduler import Scheduler
from shared.ids import Epoch, GatewayId, Handle, RequestId, WorkerId
from shared.messages import StepResult, Submit, WorkerCapabilities, decode, encode
from shared.packing import pack_u32
from shared.sampling import SamplingParams

NUM_SEQUENCES, NUM_PLANS = 256, 1000
WORKER = WorkerId("w1")
CAPABILITIES = WorkerCapabilities(
    model="fake",
    block_size=16,
    num_blocks=32_768,
    max_model_len=2048,
    max_num_seqs=NUM_SEQUENCES,
    max_num_batched_tokens=2048,
)


def main() -> None:
    """Print the cost of a plan while all sequences decode."""
    scheduler, runner, book = Scheduler(Epoch(1)), FakeRunner(CAPABILITIES, check_content=False), DeliveryBook(WORKER)
    scheduler.add_worker(WORKER, CAPABILITIES)
    for index in range(NUM_SEQUENCES):
        submit = Submit(
            request_id=RequestId(f"r{index}"),
            gateway_id=GatewayId("g1"),
            handle=Handle(index),
            prompt=pack_u32([index, *range(127)]),
            sampling=SamplingParams(max_tokens=NUM_PLANS * 2),
            arrived_ms=index,
        )
        scheduler.submit(submit, entry=submit.request_id)
    costs: list[float] = []
    while len(costs) < NUM_PLANS:
        is_decoding = not len(scheduler.waiting)
        started = time.process_time_ns()
        planned = scheduler.next_plan(WORKER, now_s=0.0)
        assert planned
        step, plan = planned
        encode(plan)
        planned_ns = time.process_time_ns() - started
        book.apply(plan)
        result = encode(book.result(step, runner.step(plan), compute_us=0))
        started = time.process_time_ns()
        scheduler.complete(WORKER, step, decode(result, StepResult))
        if is_decoding:
            costs.append((planned_ns + time.process_time_ns() - started) / 1e6)
    quantiles = statistics.quantiles(costs, n=100)
    print(
        f"{NUM_SEQUENCES} running sequences: {quantiles[49]:.2f} ms of CPU per plan (median), {quantiles[98]:.2f} (p99)"
    )


if __name__ == "__main__":
    main()
