"""What a gateway counts and times, under vLLM's names so that its dashboards work."""

import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.messages import PoolStatus

_LABELS: Final = ("model_name", "engine")
_ENGINE: Final = "0"
_WORKER_LABELS: Final = ("worker", "device", "kernels", "dtype", "kv_cache_dtype", "quantization")
_FIRST_TOKEN_BUCKETS_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_INTER_TOKEN_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0,
)  # fmt: skip
_REQUEST_BUCKETS_S: Final = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class GatewayMetrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._pool = _PoolCollector((model_name, _ENGINE))
        self._registry.register(self._pool)
        labels = (model_name, _ENGINE)

        def counter(name: str, documentation: str) -> Counter:
            return Counter(name, documentation, _LABELS, registry=self._registry).labels(*labels)

        def histogram(name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, documentation, _LABELS, registry=self._registry, buckets=buckets).labels(*labels)

        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens of accepted requests.")
        self.generation_tokens = counter("vllm:generation_tokens", "Output tokens received from the pool.")
        self.first_token_s = histogram(
            "vllm:time_to_first_token_seconds", "From the request to its first token.", _FIRST_TOKEN_BUCKETS_S
        )
        self.inter_token_s = histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of a choice.", _INTER_TOKEN_BUCKETS_S
        )
        self.request_s = histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its last token.", _REQUEST_BUCKETS_S
        )
        self.resumed = counter("pagestream_streams_resumed", "Calls that were gone on with on another connection.")
        self._labels = labels
        self._finished = Counter(
            "vllm:request_success",
            "Requests that ended, by reason.",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )

    def finished(self, reason: str) -> None:
        """Count a request that ended."""
        self._finished.labels(*self._labels, reason).inc()

    def render(self, status: PoolStatus | None) -> bytes:
        """The text that Prometheus reads, with the pool's numbers as of this status."""
        self._pool.status = status or PoolStatus(epoch=0)
        return generate_latest(self._registry)


class RequestTimer:
    """Times one API call."""

    def __init__(self, metrics: GatewayMetrics, num_choices: int) -> None:
        self._metrics = metrics
        self._started_s = time.monotonic()
        self._last_token_s: list[float | None] = [None] * num_choices
        self.first_token_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Since the request came."""
        return time.monotonic() - self._started_s

    def tokens(self, choice: int, num_tokens: int) -> None:
        """A choice got tokens just now."""
        now_s = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = now_s - self._started_s
            self._metrics.first_token_s.observe(self.first_token_s)
        last_s = self._last_token_s[choice]
        if last_s is not None:
            self._metrics.inter_token_s.observe((now_s - last_s) / num_tokens)
        self._last_token_s[choice] = now_s
        self._metrics.generation_tokens.inc(num_tokens)

    def end(self, reason: str) -> None:
        """The request ended."""
        self._metrics.request_s.observe(self.elapsed_s)
        self._metrics.finished(reason)


class _PoolCollector(Collector):
    """The scheduler's numbers, as it last told them."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self.status = PoolStatus(epoch=0)

    def collect(self) -> Iterator[Metric]:
        """Render the status as metrics."""
        status = self.status
        gauges = {
            ("vllm:num_requests_running", "Requests that are being computed."): status.num_running,
            ("vllm:num_requests_waiting", "Requests that wait."): status.num_waiting,
            ("vllm:kv_cache_usage_perc", "Used part of the KV cache; 1 is all of it."): status.kv_cache_usage,
            ("pagestream:num_workers", "Live workers."): status.num_workers,
            ("pagestream_kv_cache_unused_ratio", "Slots without a token, of those of held blocks."): (
                status.kv_cache_unused_ratio
            ),
        }
        counters = {
            ("vllm:num_preemptions", "Sequences that lost their blocks to others."): status.num_preemptions,
            ("vllm:prefix_cache_queries", "Prompt tokens looked up."): status.prefix_cache_queries,
            ("vllm:prefix_cache_hits", "Prompt tokens found."): status.prefix_cache_hits,
        }
        for (name, documentation), value in gauges.items():
            gauge = GaugeMetricFamily(name, documentation, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge
        for (name, documentation), count in counters.items():
            counter = CounterMetricFamily(name, documentation, labels=_LABELS)
            counter.add_metric(self._labels, count)
            yield counter
        yield _worker_info(status)


def _worker_info(status: PoolStatus) -> Metric:
    info = GaugeMetricFamily("pagestream_worker_info", "What each live worker computes with.", labels=_WORKER_LABELS)
    for worker_id, found in status.workers.items():
        info.add_metric(
            (worker_id, found.device, found.kernels, found.dtype, found.kv_cache_dtype, found.quantization), 1
        )
    return info
