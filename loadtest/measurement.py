"""What the records of a run amount to, by the definitions of `vllm bench serve`. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from loadtest.record import RequestRecord
from loadtest.settings import METRICS


@dataclass(frozen=True, slots=True)
class Distribution:
    """In milliseconds; all zero where nothing was measured."""

    mean: float
    median: float
    std: float
    percentiles: Mapping[float, float]

    @classmethod
    def of(cls, values_s: Sequence[float], percentiles: Iterable[float]) -> "Distribution":
        """Summarise; percentiles between two values are interpolated."""
        values_ms = np.asarray(values_s or [0.0]) * 1e3
        return cls(
            mean=float(values_ms.mean()),
            median=float(np.median(values_ms)),
            std=float(values_ms.std()),
            percentiles={percentile: float(np.percentile(values_ms, percentile)) for percentile in percentiles},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A run in numbers. Rates are per second of `duration_s`; failed requests count nowhere but in `num_failed`."""

    duration_s: float
    num_completed: int
    num_failed: int
    num_input_tokens: int
    num_output_tokens: int
    request_goodput: float | None
    max_output_tokens_per_s: float
    max_concurrent_requests: int
    errors: Mapping[str, int]
    distributions: Mapping[str, Distribution]

    @property
    def request_throughput(self) -> float:
        """Answers per second."""
        return self.num_completed / self.duration_s

    @property
    def output_throughput(self) -> float:
        """Tokens of answers per second."""
        return self.num_output_tokens / self.duration_s

    @property
    def total_token_throughput(self) -> float:
        """Tokens of prompts and answers per second."""
        return (self.num_input_tokens + self.num_output_tokens) / self.duration_s


def measure(
    records: Sequence[RequestRecord],
    duration_s: float,
    *,
    percentiles: Iterable[float],
    slo_ms: Mapping[str, float],
) -> Measurement:
    """Sum up a run.

    Args:
        records: Of all its requests.
        duration_s: From its start to the end of the last answer.
        percentiles: Wanted of each distribution.
        slo_ms: Bounds that a request must keep to count as good, by a name of OBJECTIVES; empty for no goodput.
    """
    answered = [record for record in records if record.error is None]
    samples: dict[str, list[float]] = {
        "ttft": [record.ttft_s for record in answered],
        "tpot": [record.tpot_s for record in answered if record.tpot_s is not None],
        "itl": [itl for record in answered for itl in record.itls_s],
        "e2el": [record.e2el_s for record in answered],
        "client_queue_time": [record.queue_time_s for record in answered],
    }
    percentiles = tuple(percentiles)
    return Measurement(
        duration_s=duration_s,
        num_completed=len(answered),
        num_failed=len(records) - len(answered),
        num_input_tokens=sum(record.num_prompt_tokens for record in answered),
        num_output_tokens=sum(record.num_output_tokens for record in answered),
        request_goodput=sum(_is_good(record, slo_ms) for record in answered) / duration_s if slo_ms else None,
        max_output_tokens_per_s=_peak_token_rate(answered),
        max_concurrent_requests=_peak_concurrency(answered),
        errors=Counter(record.error for record in records if record.error is not None),
        distributions={name: Distribution.of(samples[name], percentiles) for name in METRICS},
    )


def _is_good(record: RequestRecord, slo_ms: Mapping[str, float]) -> bool:
    # An answer of one token has no time per further token, and keeps every bound on it.
    reached_s = {"ttft": record.ttft_s, "tpot": record.tpot_s or 0.0, "e2el": record.e2el_s}
    return all(reached_s[name] * 1e3 <= bound for name, bound in slo_ms.items())


def _peak_token_rate(records: Sequence[RequestRecord]) -> float:
    """Most tokens in one second of the seconds after the first request's start; a chunk holds its share of them."""
    start_s = min((record.started_s for record in records), default=0.0)
    tokens: Counter[int] = Counter()
    for record in records:
        share = record.num_output_tokens / max(1, len(record.chunk_times_s))
        for time_s in record.chunk_times_s:
            tokens[int(time_s - start_s)] += share  # type: ignore[assignment]  # a Counter may hold floats
    return float(max(tokens.values(), default=0))


def _peak_concurrency(records: Sequence[RequestRecord]) -> int:
    """Most requests under way at once; one that ends as another starts is not at once with it."""
    changes = [(record.started_s, 1) for record in records] + [(record.ended_s, -1) for record in records]
    return max(accumulate(change for _, change in sorted(changes)), default=0)
