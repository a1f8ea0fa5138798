import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import arrival_times

RATES = st.floats(0.01, 1e4)
SHAPES = st.floats(0.05, 100.0)


@given(st.integers(1, 200), RATES, SHAPES, st.integers(0, 1000))
def test_times_rise_to_the_time_that_the_rate_gives(count: int, rate: float, shape: float, seed: int) -> None:
    times = arrival_times(count, request_rate=rate, burstiness=shape, seed=seed)

    assert len(times) == count
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] == pytest.approx(count / rate)


@given(st.integers(0, 1000))
def test_a_seed_gives_the_same_times_again_and_another_seed_others(seed: int) -> None:
    def times(seed: int) -> list[float]:
        return arrival_times(20, request_rate=1.0, burstiness=1.0, seed=seed)

    assert times(seed) == times(seed)
    assert times(seed) != times(seed + 1)


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert arrival_times(3, request_rate=math.inf, burstiness=1.0, seed=0) == [0.0, 0.0, 0.0]


def test_infinite_burstiness_is_a_metronome() -> None:
    assert arrival_times(4, request_rate=2.0, burstiness=math.inf, seed=0) == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(("burstiness", "variation"), [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5)])
def test_gaps_vary_as_much_as_a_gamma_distribution_of_that_shape(burstiness: float, variation: float) -> None:
    times = arrival_times(20_000, request_rate=10.0, burstiness=burstiness, seed=1)
    gaps = [after - before for before, after in pairwise([0.0, *times])]

    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(variation, rel=0.05)


def test_gaps_too_small_for_a_float_are_one_burst() -> None:
    times = arrival_times(3, request_rate=1.0, burstiness=1e-300, seed=0)

    assert times == sorted(times)
    assert all(math.isfinite(time) for time in times)
