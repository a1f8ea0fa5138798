"""Sends conversations at their times, or as fast as their number at once allows, and collects what was seen."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from loadtest.client import OpenAIClient
from loadtest.conversation import Conversation, Transcript
from loadtest.record import RequestRecord


class LoadGenerator:
    """Drives one server.

    Conversations start at their times whatever the server does (an open loop). The turns of one follow each other.
    With `max_concurrency`, a request that is due waits until fewer than that many run; all due at once makes that a
    closed loop.
    """

    def __init__(
        self,
        client: OpenAIClient,
        *,
        model: str,
        sampling: Mapping[str, object],
        max_concurrency: int | None,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._model = model
        self._sampling = sampling
        self._slots = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
        self._on_done = on_done

    async def run(self, conversations: Sequence[Conversation], arrival_times_s: Sequence[float]) -> list[RequestRecord]:
        """Records of all turns, in order of the conversations.

        Args:
            conversations: What to send.
            arrival_times_s: When each one starts, counted from now.
        """
        start_s = time.perf_counter()
        running = []
        async with asyncio.TaskGroup() as tasks:
            for conversation, arrival_s in zip(conversations, arrival_times_s, strict=True):
                due_s = start_s + arrival_s
                if (delay_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(delay_s)
                running.append(tasks.create_task(self._converse(conversation, due_s)))
        return [record for task in running for record in task.result()]

    async def _converse(self, conversation: Conversation, due_s: float) -> list[RequestRecord]:
        transcript = Transcript()
        records: list[RequestRecord] = []
        for turn in conversation:
            transcript.add("user", turn.text, turn.num_tokens)
            if records and records[-1].error is not None:
                record = RequestRecord(due_s=due_s, started_s=due_s, error="an earlier turn of its conversation failed")
            else:
                record = await self._send(transcript, turn.max_tokens, due_s)
            transcript.add("assistant", record.text, record.num_output_tokens)
            records.append(record)
            self._on_done()
            due_s = time.perf_counter()
        return records

    async def _send(self, transcript: Transcript, max_tokens: int, due_s: float) -> RequestRecord:
        async with self._slots:
            return await self._client.complete(
                transcript.messages,
                model=self._model,
                max_tokens=max_tokens,
                num_prompt_tokens=transcript.num_tokens,
                sampling=self._sampling,
                due_s=due_s,
            )
