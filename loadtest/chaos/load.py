"""The clients: so many streams at once, each the next request as soon as its last one has ended."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

import msgspec

from loadtest.chaos.answer import Answer
from loadtest.chaos.requests import ChaosRequest, RequestSource
from loadtest.http_connection import HttpClient, HttpResponse

_LONGEST_ANSWER_S: Final = 240.0
_RETRY_S: Final = 0.25
_REFUSALS: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""What a gateway may answer instead of taking a request: the client asks again."""


class Load:
    """Keeps the pool busy until told to stop; then every stream goes on to its end.

    Args:
        source: Of requests.
        gateway_urls: Where clients may go at this moment.
        on_answer: Takes each answer when it has ended, however it has.
        seed: Of the choice among gateways.

    Attributes:
        num_refused: Times that a gateway took no request, or could not be reached.
        num_resumed: Times that a stream broke off and was gone on with.
    """

    def __init__(
        self,
        source: RequestSource,
        gateway_urls: Callable[[], list[str]],
        *,
        on_answer: Callable[[Answer], None],
        seed: int,
    ) -> None:
        self.num_refused = 0
        self.num_resumed = 0
        self._running: set[Answer] = set()
        self._on_answer = on_answer
        self._source = source
        self._gateway_urls = gateway_urls
        self._chance = random.Random(seed)
        self._is_stopping = False

    async def run(self, num_streams: int) -> None:
        """Send requests until `stop`, and wait for the last answers."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(num_streams):
                tasks.create_task(self._keep_asking())

    def flows(self, since_s: float) -> bool:
        """Whether every stream that was under way at that time has got something since."""
        return all(
            answer.piece_times_s and answer.piece_times_s[-1] > since_s
            for answer in self._running
            if answer.started_s < since_s
        )

    def stop(self) -> None:
        """Send no more."""
        self._is_stopping = True

    async def ask_all(self, requests: Iterable[ChaosRequest], num_streams: int) -> None:
        """Send these requests, each once."""
        waiting = iter(requests)

        async def keep_asking() -> None:
            for request in waiting:
                await self._ask(request)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(num_streams):
                tasks.create_task(keep_asking())

    async def _ask(self, request: ChaosRequest) -> None:
        """Send one request, until a gateway takes it, and read its answer to the end, at whichever gateway."""
        answer, response = Answer(request, time.perf_counter()), None
        self._running.add(answer)
        while True:
            answer.is_broken = False
            try:
                async with asyncio.timeout(_LONGEST_ANSWER_S):
                    response = await self._send(answer)
            except TimeoutError:
                break
            except OSError:
                answer.is_broken = True
                if answer.request_id and not answer.last_event_id:
                    break  # there is no way to go on with it
                self.num_resumed += bool(answer.request_id)
                answer.go_on()
            else:
                if response.status not in _REFUSALS:
                    break
            self.num_refused += not answer.request_id
            await asyncio.sleep(_RETRY_S)
        self._running.discard(answer)
        answer.ended_s = time.perf_counter()
        if response is not None and response.status != HTTPStatus.OK:
            answer.error = f"HTTP {response.status}: {response.body.decode(errors='replace')}"
        self._on_answer(answer)

    async def _keep_asking(self) -> None:
        while not self._is_stopping:
            await self._ask(self._source.take())

    async def _send(self, answer: Answer) -> HttpResponse:
        urls = self._gateway_urls()
        if not urls:
            raise ConnectionError("there is no gateway")
        # A connection each: one that is kept may be closed by the other side as a request is sent on it.
        client = HttpClient(self._chance.choice(urls), insecure=False)
        try:
            return await client.request(
                "POST",
                answer.request.path,
                headers={
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream",  # events have ids only for those who say so
                    **_resumption(answer),
                },
                body=msgspec.json.encode(answer.request.body),
                on_body=lambda data: answer.push(data, time.perf_counter()),
            )
        finally:
            client.close()


def _resumption(answer: Answer) -> dict[str, str]:
    return {"Last-Event-ID": answer.last_event_id} if answer.last_event_id else {}
