"""`pagestream bench serve`: loads a server as told, and says how it did."""

import asyncio
import functools
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from loadtest.arrivals import arrival_times
from loadtest.client import OpenAIClient
from loadtest.conversation import Conversation, num_requests
from loadtest.datasets import make_conversations, warmup_prompts
from loadtest.load_generator import LoadGenerator
from loadtest.measurement import Measurement, measure
from loadtest.plot import Plot
from loadtest.progress import progress_of
from loadtest.random_text import RandomText
from loadtest.record import RequestRecord
from loadtest.report import as_json, as_text
from loadtest.result_file import ResultFile
from loadtest.settings import BenchSettings
from loadtest.tokenizer_source import load_tokenizer
from shared.errors import ConfigurationError

_T = TypeVar("_T")

_READY_INTERVAL_S: Final = 0.5
_MAX_OPEN_FILES: Final = 10_240
"""Many systems let a process start with 1024, which 1000 requests at once nearly reach; no system forbids this many."""


def run(settings: BenchSettings) -> int:
    """Measure, print and keep the result; 1 if no request was answered.

    Raises:
        ConfigurationError: a setting is wrong, or the server is not there.
    """
    return _run_fast(_run(settings))


def measure_server(settings: BenchSettings) -> tuple[list[RequestRecord], Measurement]:
    """Measure, and print nothing.

    Raises:
        ConfigurationError: a setting is wrong, or the server is not there.
    """
    return _run_fast(_measure(settings))


def _run_fast(work: Coroutine[Any, Any, _T]) -> _T:
    if sys.platform == "win32":
        return asyncio.run(work)
    # Windows has it not. It takes less than half of asyncio's time per token.
    import uvloop

    _allow_many_connections()
    return uvloop.run(work)


def _allow_many_connections() -> None:
    # Windows has it not.
    import resource

    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _MAX_OPEN_FILES)
    if resource.RLIM_INFINITY != allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


async def _run(settings: BenchSettings) -> int:
    client = OpenAIClient(settings.target)
    try:
        model = settings.target.model
        if model is None:
            model = await _attempt(client.first_model, settings.target.ready_check_timeout_sec)
        date = datetime.now(UTC).astimezone().strftime("%Y%m%d-%H%M%S")
        file = ResultFile.of(settings, model=model, date=date)
        if file is not None:
            file.prepare()
        plot = None if settings.reporting.plot is None else Plot(settings.reporting.plot)
        records, measurement = await _Run(settings, client, model).measure()
    finally:
        client.close()
    for error, count in measurement.errors.items():
        print(f"{count} requests failed: {error}", file=sys.stderr)
    print(as_text(measurement, settings.traffic, settings.reporting.percentile_metrics))
    if file is not None:
        file.write(as_json(measurement, records, settings, model=model, date=date))
        print(f"Result written to {file.path}", file=sys.stderr)
    if plot is not None:
        plot.draw(records, title=f"{model}: {measurement.output_throughput:.1f} output tokens/s")
        print(f"Plot written to {plot.path}", file=sys.stderr)
    return 0 if measurement.num_completed else 1


async def _measure(settings: BenchSettings) -> tuple[list[RequestRecord], Measurement]:
    client = OpenAIClient(settings.target)
    try:
        model = settings.target.model or await client.first_model()
        return await _Run(settings, client, model).measure()
    finally:
        client.close()


class _Run:
    """One measurement: readiness, warm-up, load."""

    def __init__(self, settings: BenchSettings, client: OpenAIClient, model: str) -> None:
        self._settings = settings
        self._client = client
        self._model = settings.target.served_model_name or model
        self._tokenizer = settings.target.tokenizer or model
        self._sampling = settings.sampling.body(ignore_eos=settings.ignore_eos)

    async def measure(self) -> tuple[list[RequestRecord], Measurement]:
        traffic, reporting = self._settings.traffic, self._settings.reporting
        tokenizer = load_tokenizer(self._tokenizer)
        conversations = make_conversations(
            self._settings.dataset, RandomText(tokenizer, traffic.seed), traffic.num_prompts
        )
        warmups = warmup_prompts(conversations, RandomText(tokenizer, traffic.seed + 1), traffic.num_warmups + 1)
        if timeout_s := self._settings.target.ready_check_timeout_sec:
            await _attempt(functools.partial(self._check_ready, warmups[0]), timeout_s)
        await self._load(warmups[1:], [0.0] * traffic.num_warmups, "Warm-up")
        # As conversations arrive, so that requests come at the rate that was asked for.
        arrivals = arrival_times(
            len(conversations),
            request_rate=traffic.request_rate * len(conversations) / num_requests(conversations),
            burstiness=traffic.burstiness,
            seed=traffic.seed,
        )
        with _little_garbage_collection():
            started_s = time.perf_counter()
            records = await self._load(conversations, arrivals, "Requests")
            duration_s = time.perf_counter() - started_s
        return records, measure(records, duration_s, percentiles=reporting.metric_percentiles, slo_ms=reporting.goodput)

    async def _load(self, conversations: list[Conversation], arrivals: list[float], what: str) -> list[RequestRecord]:
        traffic = self._settings.traffic
        with progress_of(what, num_requests(conversations), is_wanted=not traffic.disable_tqdm) as advance:
            generator = LoadGenerator(
                self._client,
                model=self._model,
                sampling=self._sampling,
                max_concurrency=traffic.max_concurrency,
                on_done=advance,
            )
            return await generator.run(conversations, arrivals)

    async def _check_ready(self, probe: Conversation) -> None:
        (record,) = await self._load([probe], [0.0], "Ready check")
        if record.error is not None:
            raise ConfigurationError(
                f"the server does not answer as it should: {record.error}; "
                "correct the flags, or raise --ready-check-timeout-sec if it is still starting"
            )


async def _attempt(ask: Callable[[], Awaitable[_T]], timeout_s: float) -> _T:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return await ask()
        except ConfigurationError:
            if time.monotonic() + _READY_INTERVAL_S > deadline_s:
                raise
        await asyncio.sleep(_READY_INTERVAL_S)


@contextmanager
def _little_garbage_collection() -> Iterator[None]:
    """Leave out of each collection what is there already, prompts above all: it would pause the clock."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
