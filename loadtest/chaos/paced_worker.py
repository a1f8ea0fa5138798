"""A worker process whose tokens are a function of the request, and whose steps take as long as it is told.

Everything but the runner is the product's. Started as `python -m loadtest.chaos.paced_worker`.
"""

import argparse
import time

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.main import serve
from gpu_worker.runner import StepOutput
from shared.lifeline import follow_supervisor
from shared.messages import StepPlan, WorkerCapabilities
from shared.observability import configure_logging
from shared.stop_signals import exit_on_stop_signals

_CAPABILITIES = WorkerCapabilities(
    model="demo",
    block_size=16,
    num_blocks=1024,
    max_model_len=2048,
    max_num_seqs=64,
    max_num_batched_tokens=1024,
    device="fake",
)
"""Blocks for some 30 answers at once: where all streams meet on one worker, it must preempt."""


class PacedRunner:
    """Implements `Runner`: a `FakeRunner`, which checks every plan, with steps of equal length.

    Args:
        step_s: Of a step that computes anything.
    """

    def __init__(self, step_s: float) -> None:
        self._runner = FakeRunner(_CAPABILITIES)
        self._step_s = step_s

    @property
    def capabilities(self) -> WorkerCapabilities:
        """What this runner claims to hold and compute."""
        return _CAPABILITIES

    def step(self, plan: StepPlan) -> StepOutput:
        """Invent the next tokens, and wait.

        Raises:
            PlanError: the plan contradicts what this runner holds.
        """
        started_s = time.perf_counter()
        output = self._runner.step(plan)
        if output.num_tokens:
            time.sleep(max(0.0, started_s + self._step_s - time.perf_counter()))
        return output

    def reset(self) -> None:
        """Forget every row."""
        self._runner.reset()


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--pool", default="default")
    parser.add_argument("--step-ms", type=float, required=True)
    arguments = parser.parse_args()
    follow_supervisor()
    configure_logging("worker", level="info")
    exit_on_stop_signals()
    return serve(PacedRunner(arguments.step_ms / 1e3), redis_url=arguments.redis_url, pool=arguments.pool)


if __name__ == "__main__":
    raise SystemExit(main())
