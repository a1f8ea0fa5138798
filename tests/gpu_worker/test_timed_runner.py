import pytest

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.timed_runner import TimedRunner
from kernels.roofline import StepLoad
from tests.gpu_worker.checked_plans import CAPABILITIES, admitted, plan


def test_the_runner_sleeps_what_the_fake_has_not_used_up() -> None:
    slept: list[float] = []
    loads: list[StepLoad] = []
    ticks = iter([10.0, 10.25])

    def step_seconds(load: StepLoad) -> float:
        loads.append(load)
        return 1.5

    runner = TimedRunner(FakeRunner(CAPABILITIES), step_seconds, sleep=slept.append, clock=lambda: next(ticks))
    output = runner.step(plan({0: 3}, admitted(0, [1, 2, 3], [0])))
    assert len(output.rows) == 1
    assert loads == [StepLoad.prefill(3)]
    assert slept == [pytest.approx(1.5 - 0.25)]
