"""A measurement as text and as JSON, in the words of `vllm bench serve`, so that what reads one reads the other."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from loadtest.measurement import Measurement
from loadtest.record import RequestRecord
from loadtest.settings import BenchSettings, Traffic

_WIDTH: Final = 50
_TITLES: Final = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
    "client_queue_time": ("Client Queue Time", "Client-side Queueing"),
}


def as_text(measurement: Measurement, traffic: Traffic, metrics: Sequence[str]) -> str:
    """The table that is printed.

    Args:
        measurement: A run.
        traffic: How it was loaded.
        metrics: Which distributions to show.
    """
    return "\n".join(
        [
            " Serving Benchmark Result ".center(_WIDTH, "="),
            *_totals(measurement, traffic),
            *(line for metric in metrics for line in _section(measurement, metric)),
            "=" * _WIDTH,
        ]
    )


def as_json(
    measurement: Measurement, records: Sequence[RequestRecord], settings: BenchSettings, *, model: str, date: str
) -> dict[str, object]:
    """The document that is saved; with a line per request if the settings ask for details."""
    return {
        "date": date,
        "endpoint_type": settings.target.backend,
        "backend": settings.target.backend,
        "label": settings.reporting.label,
        "model_id": model,
        "tokenizer_id": settings.target.tokenizer or model,
        "num_prompts": settings.traffic.num_prompts,
        **settings.reporting.metadata,
        "request_rate": "inf" if math.isinf(settings.traffic.request_rate) else settings.traffic.request_rate,
        "burstiness": settings.traffic.burstiness,
        "max_concurrency": settings.traffic.max_concurrency,
        "duration": measurement.duration_s,
        "completed": measurement.num_completed,
        "failed": measurement.num_failed,
        "total_input_tokens": measurement.num_input_tokens,
        "total_output_tokens": measurement.num_output_tokens,
        "request_throughput": measurement.request_throughput,
        "request_goodput": measurement.request_goodput,
        "output_throughput": measurement.output_throughput,
        "total_token_throughput": measurement.total_token_throughput,
        "max_output_tokens_per_s": measurement.max_output_tokens_per_s,
        "max_concurrent_requests": measurement.max_concurrent_requests,
        **dict(_statistics(measurement)),
        **(_details(records) if settings.reporting.save_detailed else {}),
    }


def _totals(measurement: Measurement, traffic: Traffic) -> Iterator[str]:
    yield _line("Successful requests:", measurement.num_completed)
    yield _line("Failed requests:", measurement.num_failed)
    if traffic.max_concurrency is not None:
        yield _line("Maximum request concurrency:", traffic.max_concurrency)
    if not math.isinf(traffic.request_rate):
        yield _line("Request rate configured (RPS):", traffic.request_rate)
    yield _line("Benchmark duration (s):", measurement.duration_s)
    yield _line("Total input tokens:", measurement.num_input_tokens)
    yield _line("Total generated tokens:", measurement.num_output_tokens)
    yield _line("Request throughput (req/s):", measurement.request_throughput)
    if measurement.request_goodput is not None:
        yield _line("Request goodput (req/s):", measurement.request_goodput)
    yield _line("Output token throughput (tok/s):", measurement.output_throughput)
    yield _line("Peak output token throughput (tok/s):", measurement.max_output_tokens_per_s)
    yield _line("Peak concurrent requests:", float(measurement.max_concurrent_requests))
    yield _line("Total token throughput (tok/s):", measurement.total_token_throughput)


def _section(measurement: Measurement, metric: str) -> Iterator[str]:
    name, title = _TITLES[metric]
    distribution = measurement.distributions[metric]
    yield title.center(_WIDTH, "-")
    yield _line(f"Mean {name} (ms):", distribution.mean)
    yield _line(f"Median {name} (ms):", distribution.median)
    for percentile, value in distribution.percentiles.items():
        yield _line(f"P{percentile:g} {name} (ms):", value)


def _line(label: str, value: int | float) -> str:
    return f"{label:<40} {value:<10.2f}" if isinstance(value, float) else f"{label:<40} {value:<10}"


def _statistics(measurement: Measurement) -> Iterator[tuple[str, float]]:
    for metric, distribution in measurement.distributions.items():
        yield f"mean_{metric}_ms", distribution.mean
        yield f"median_{metric}_ms", distribution.median
        yield f"std_{metric}_ms", distribution.std
        for percentile, value in distribution.percentiles.items():
            yield f"p{percentile:g}_{metric}_ms", value


def _details(records: Sequence[RequestRecord]) -> dict[str, object]:
    return {
        "input_lens": [record.num_prompt_tokens for record in records],
        "output_lens": [record.num_output_tokens if record.error is None else 0 for record in records],
        "ttfts": [record.ttft_s for record in records],
        "itls": [record.itls_s for record in records],
        "start_times": [record.started_s for record in records],
        "queue_times": [record.queue_time_s for record in records],
        "generated_texts": [record.text for record in records],
        "errors": [record.error or "" for record in records],
    }
