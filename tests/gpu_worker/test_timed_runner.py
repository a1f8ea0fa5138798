import pytest

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.timed_runner import Roofline, TimedRunner
from tests.gpu_worker.checked_plans import CAPABILITIES, admitted, plan

ROOFLINE = Roofline(
    weight_bytes=100, kv_bytes_per_token=10, flops_per_token=1000, bytes_per_s=100, flops_per_s=10_000, overhead_s=0.5
)


@pytest.mark.parametrize(
    ("num_tokens", "context_tokens", "seconds"),
    [(0, 0, 0.5), (1, 0, 1.5), (1, 10, 2.5), (20, 10, 2.5), (30, 10, 3.5)],
)
def test_a_step_takes_the_longer_of_moving_and_computing(num_tokens: int, context_tokens: int, seconds: float) -> None:
    assert ROOFLINE.step_seconds(num_tokens, context_tokens) == pytest.approx(seconds)


def test_the_runner_sleeps_what_the_fake_has_not_used_up() -> None:
    slept: list[float] = []
    ticks = iter([10.0, 10.25])
    runner = TimedRunner(FakeRunner(CAPABILITIES), ROOFLINE, sleep=slept.append, clock=lambda: next(ticks))
    output = runner.step(plan({0: 3}, admitted(0, [1, 2, 3], [0])))
    assert len(output.rows) == 1
    assert slept == [pytest.approx(0.5 + 1.3 - 0.25)]
