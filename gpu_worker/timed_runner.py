"""A fake runner that takes as long as a GPU is expected to: for capacity planning and for tests of what time does."""

import time
from collections.abc import Callable

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.runner import StepOutput
from kernels.roofline import StepLoad
from shared.messages import StepPlan, WorkerCapabilities


class TimedRunner:
    """Implements `Runner`: a `FakeRunner` whose steps last as long as a model of time says.

    Args:
        step_seconds: The time of a step; see `kernels.roofline.expected_seconds`.
        sleep: Waits for so many seconds.
        clock: Seconds; what the fake itself needs is part of the step's time.
    """

    def __init__(
        self,
        runner: FakeRunner,
        step_seconds: Callable[[StepLoad], float],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self._step_seconds = step_seconds
        self._sleep = sleep
        self._clock = clock

    @property
    def capabilities(self) -> WorkerCapabilities:
        """What this runner can hold and compute."""
        return self._runner.capabilities

    def step(self, plan: StepPlan) -> StepOutput:
        """What the fake does, in the time that the model of time gives.

        Raises:
            PlanError: the plan contradicts what this runner holds.
        """
        started = self._clock()
        output = self._runner.step(plan)
        seconds = self._step_seconds(self._runner.load)
        self._sleep(max(0.0, started + seconds - self._clock()))
        return output

    def reset(self) -> None:
        """Forget every row."""
        self._runner.reset()
