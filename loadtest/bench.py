"""`pagestream bench serve`: loads a server as told, and says how it did."""

import asyncio
import gc
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from loadtest.arrivals import arrival_times
from loadtest.client import OpenAIClient
from loadtest.conversation import Conversation, num_requests
from loadtest.datasets import make_conversations, warmup_prompts
from loadtest.load_generator import LoadGenerator
from loadtest.measurement import Measurement, measure
from loadtest.progress import progress_of
from loadtest.random_text import RandomText
from loadtest.record import RequestRecord
from loadtest.report import as_json, as_text
from loadtest.result_file import ResultFile
from loadtest.settings import BenchSettings
from loadtest.tokenizer_source import load_tokenizer
from shared.errors import ConfigurationError

_READY_INTERVAL_S = 0.5


def run(settings: BenchSettings) -> int:
    """Measure, print and keep the result; 1 if no request was answered.

    Raises:
        ConfigurationError: a setting is wrong, or the server is not there.
    """
    # Half the client's time per token; Windows has it not.
    if sys.platform == "win32":
        return asyncio.run(_run(settings))
    import uvloop

    return uvloop.run(_run(settings))


async def _run(settings: BenchSettings) -> int:
    client = OpenAIClient(settings.target)
    try:
        model = settings.target.model or await client.first_model()
        date = datetime.now(UTC).astimezone().strftime("%Y%m%d-%H%M%S")
        file = ResultFile.of(settings, model=model, date=date)
        if file is not None:
            file.prepare()
        records, measurement = await _Run(settings, client, model).measure()
    finally:
        client.close()
    for error, count in measurement.errors.items():
        print(f"{count} requests failed: {error}", file=sys.stderr)
    print(as_text(measurement, settings.traffic, settings.reporting.percentile_metrics))
    if file is not None:
        file.write(as_json(measurement, records, settings, model=model, date=date))
        print(f"Result written to {file.path}", file=sys.stderr)
    return 0 if measurement.num_completed else 1


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
        await self._wait_until_ready(warmups[0])
        await self._load(warmups[1:], [0.0] * traffic.num_warmups, "Warm-up")
        # As conversations arrive, so that requests come at the rate that was asked for.
        arrivals = arrival_times(
            len(conversations),
            request_rate=traffic.request_rate * len(conversations) / num_requests(conversations),
            burstiness=traffic.burstiness,
            seed=traffic.seed,
        )
        gc.collect()
        gc.freeze()
        started_s = time.perf_counter()
        records = await self._load(conversations, arrivals, "Requests")
        duration_s = time.perf_counter() - started_s
        slo_ms: Mapping[str, float] = reporting.goodput
        return records, measure(records, duration_s, percentiles=reporting.metric_percentiles, slo_ms=slo_ms)

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

    async def _wait_until_ready(self, probe: Conversation) -> None:
        timeout_s = self._settings.target.ready_check_timeout_sec
        deadline_s = time.monotonic() + timeout_s
        while timeout_s:
            (record,) = await self._load([probe], [0.0], "Ready check")
            if record.error is None:
                return
            if time.monotonic() > deadline_s:
                raise ConfigurationError(
                    f"the server did not answer within --ready-check-timeout-sec {timeout_s}: {record.error}"
                )
            await asyncio.sleep(_READY_INTERVAL_S)
