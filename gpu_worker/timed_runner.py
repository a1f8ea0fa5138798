"""A fake runner that takes as long as a real device would: for capacity planning and for tests of what time does."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.runner import StepOutput
from shared.messages import StepPlan, WorkerCapabilities


@dataclass(frozen=True, slots=True)
class Roofline:
    """The time of a step from what it must move and what it must compute; the longer of the two counts.

    The defaults are an 8-billion-parameter model in bfloat16 with grouped-query attention (32 layers, 8 KV heads of
    128) on one 80 GB accelerator with HBM3.

    Attributes:
        weight_bytes: Read once per step.
        kv_bytes_per_token: Keys and values of one token, all layers.
        flops_per_token: Two per parameter.
        bytes_per_s: Memory bandwidth that kernels reach.
        flops_per_s: Arithmetic that kernels reach.
        overhead_s: Spent per step whatever it computes.
    """

    weight_bytes: float = 16e9
    kv_bytes_per_token: float = 131_072
    flops_per_token: float = 16e9
    bytes_per_s: float = 2.7e12
    flops_per_s: float = 6e14
    overhead_s: float = 5e-4

    def step_seconds(self, num_tokens: int, context_tokens: int) -> float:
        """The time of one step.

        Args:
            num_tokens: Tokens computed.
            context_tokens: Positions attended to, summed over rows.

        Source: Williams, Waterman and Patterson, "Roofline", 2009.
        """
        if num_tokens == 0:
            return self.overhead_s
        moving_s = (self.weight_bytes + self.kv_bytes_per_token * context_tokens) / self.bytes_per_s
        computing_s = self.flops_per_token * num_tokens / self.flops_per_s
        return self.overhead_s + max(moving_s, computing_s)


class TimedRunner:
    """Implements `Runner`: a `FakeRunner` whose steps last as long as a roofline says.

    Args:
        sleep: Waits for so many seconds.
        clock: Seconds; what the fake itself needs is part of the step's time.
    """

    def __init__(
        self,
        runner: FakeRunner,
        roofline: Roofline | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self._roofline = roofline or Roofline()
        self._sleep = sleep
        self._clock = clock

    @property
    def capabilities(self) -> WorkerCapabilities:
        """What this runner can hold and compute."""
        return self._runner.capabilities

    def step(self, plan: StepPlan) -> StepOutput:
        """What the fake does, in the time that the roofline gives.

        Raises:
            PlanError: the plan contradicts what this runner holds.
        """
        started = self._clock()
        output = self._runner.step(plan)
        seconds = self._roofline.step_seconds(output.num_tokens, self._runner.num_context_tokens)
        self._sleep(max(0.0, started + seconds - self._clock()))
        return output

    def reset(self) -> None:
        """Forget every row."""
        self._runner.reset()
