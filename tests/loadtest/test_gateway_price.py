import sys

import pytest
import uvloop

from loadtest.gateway_price import Arrival, measure, spreads_ms
from loadtest.server import ServerCommand, running


def step(at_s: float, streams: range, apart_s: float = 1e-4) -> list[Arrival]:
    return [Arrival(at_s + place * apart_s, stream) for place, stream in enumerate(streams)]


def test_a_steps_spread_is_from_its_first_to_its_last_event() -> None:
    arrivals = [*step(0.0, range(20)), *step(0.01, range(20), 2e-4), *step(0.02, range(20))]
    assert spreads_ms(arrivals, 20) == pytest.approx([1.9, 3.8])


def test_a_stream_that_had_nothing_to_say_does_not_shift_the_steps_after_it() -> None:
    arrivals = [*step(0.0, range(1, 20)), *step(0.01, range(20)), *step(0.02, range(20)), *step(0.03, range(20))]
    assert spreads_ms(arrivals, 20) == pytest.approx([1.8, 1.9, 1.9])


def test_a_pause_within_a_step_counts() -> None:
    arrivals = [*step(0.0, range(10)), *step(0.005, range(10, 20)), *step(0.01, range(20))]
    assert spreads_ms(arrivals, 20) == pytest.approx([5.9])


def test_a_late_part_of_a_step_does_not_shift_the_steps_after_it() -> None:
    late = [*step(0.0, range(19)), *step(0.005, range(19, 20))]
    arrivals = [*late, *step(0.01, range(20)), *step(0.02, range(20)), *step(0.03, range(20)), *step(0.04, range(20))]
    assert spreads_ms(arrivals, 20)[-2:] == pytest.approx([1.9, 1.9])


def test_the_writes_alone_are_measured_as_a_gateway_is() -> None:
    bare = ServerCommand(name="bare", command=(sys.executable, "-m", "loadtest.bare_stream", "--step-ms", "10"))
    with running(bare) as url:
        price = uvloop.run(measure(url, "any", 5, seconds=1.0))
    assert 0 < price.cpu_us < 10_000
    assert 100 < price.tokens_per_s <= 550
