import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.measurement import Distribution, measure
from loadtest.record import RequestRecord

# Two answers of 3 and 1 tokens, and one failure.
SLOW = RequestRecord(
    due_s=99.0, started_s=100.0, chunk_times_s=(100.5, 100.6, 100.9), num_prompt_tokens=10, num_output_tokens=3
)
QUICK = RequestRecord(due_s=100.2, started_s=100.2, chunk_times_s=(100.3,), num_prompt_tokens=4, num_output_tokens=1)
FAILED = RequestRecord(due_s=100.0, started_s=100.0, num_prompt_tokens=99, error="HTTP 500")


def run(*records: RequestRecord, **slo_ms: float):
    return measure(records, 2.0, percentiles=[50, 99], slo_ms=slo_ms)


def test_totals_and_rates_leave_failures_out() -> None:
    measured = run(SLOW, QUICK, FAILED, FAILED)

    assert (measured.num_completed, measured.num_failed) == (2, 2)
    assert (measured.num_input_tokens, measured.num_output_tokens) == (14, 4)
    assert measured.request_throughput == 1.0
    assert measured.output_throughput == 2.0
    assert measured.total_token_throughput == 9.0
    assert measured.errors == {"HTTP 500": 2}


def test_latencies_are_those_counted_by_hand() -> None:
    found = run(SLOW, QUICK, FAILED).distributions

    assert found["ttft"].mean == pytest.approx((500 + 100) / 2)
    assert found["tpot"].mean == pytest.approx(400 / 2)
    assert found["itl"].mean == pytest.approx((100 + 300) / 2)
    assert found["itl"].std == pytest.approx(100)
    assert found["e2el"].median == pytest.approx((900 + 100) / 2)
    assert found["client_queue_time"].mean == pytest.approx(1000 / 2)
    assert found["itl"].percentiles[50] == pytest.approx(200)
    assert found["itl"].percentiles[99] == pytest.approx(298)


@pytest.mark.parametrize(
    ("slo_ms", "num_good"),
    [
        ({"ttft": 600}, 2),
        ({"ttft": 200}, 1),
        ({"tpot": 100}, 1),
        ({"tpot": 250, "e2el": 950}, 2),
        ({"ttft": 600, "e2el": 50}, 0),
    ],
)
def test_goodput_counts_requests_that_keep_all_bounds(slo_ms: dict[str, float], num_good: int) -> None:
    assert run(SLOW, QUICK, FAILED, **slo_ms).request_goodput == num_good / 2.0


def test_without_bounds_there_is_no_goodput() -> None:
    assert run(SLOW).request_goodput is None


def test_the_peak_rate_is_that_of_the_best_second_and_counts_tokens() -> None:
    # 2 tokens per chunk, at 0.0, 0.5 and 1.5 s after the first start.
    bundled = RequestRecord(due_s=5, started_s=5, chunk_times_s=(5.0, 5.5, 6.5), num_output_tokens=6)

    assert run(bundled).max_output_tokens_per_s == 4.0


def test_requests_that_only_touch_are_not_at_once() -> None:
    first = RequestRecord(due_s=0, started_s=0, chunk_times_s=(1.0,))
    second = RequestRecord(due_s=1, started_s=1.0, chunk_times_s=(2.0,))
    across = RequestRecord(due_s=0, started_s=0.5, chunk_times_s=(1.5,))

    assert run(first, second).max_concurrent_requests == 1
    assert run(first, second, across).max_concurrent_requests == 2


def test_a_run_without_answers_is_all_zero() -> None:
    measured = run(FAILED)

    assert measured.request_throughput == measured.max_output_tokens_per_s == measured.max_concurrent_requests == 0
    assert measured.distributions["ttft"] == Distribution(0, 0, 0, {50: 0, 99: 0})


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 100))
def test_a_distribution_lies_within_its_values(values_s: list[float], percentile: float) -> None:
    found = Distribution.of(values_s, [percentile])

    low, high = min(values_s) * 1e3 * (1 - 1e-9), max(values_s) * 1e3 * (1 + 1e-9)
    assert low <= found.mean <= high
    assert low <= found.median <= high
    assert low <= found.percentiles[percentile] <= high
