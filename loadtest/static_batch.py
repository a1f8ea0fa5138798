"""Static batching by transformers' `generate`, as one serves with it: the peer that continuous batching is measured by.

Requests queue while a batch runs. When it ends, those that wait are padded on the left to one length and generated
until the longest of their outputs is complete. Each request's tokens are handed out as `generate` makes them.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from typing import Final, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from shared.errors import RequestError
from shared.sampling import FinishCode, SamplingParams

_log = logging.getLogger(__name__)

_PAD: Final = 0
"""Any token: where it stands, nothing attends to it."""


class BatchFailedError(RequestError):
    """`generate` raised; the server's log says what."""

    status = 500
    error_type = "server_error"


class NewToken(NamedTuple):
    """One token of an answer, and whether it is the last."""

    token: int
    finish: FinishCode


class StaticRequest:
    """One prompt on its way, and its answer as it comes.

    Attributes:
        is_done: It needs nothing more of its batch: its last token is there, or nobody reads it.
    """

    def __init__(self, prompt: Sequence[int], sampling: SamplingParams) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.is_done = False
        self._num_tokens = 0
        self._answer: asyncio.Queue[NewToken | None] = asyncio.Queue()

    async def tokens(self) -> AsyncGenerator[NewToken]:
        """The answer's tokens.

        Raises:
            BatchFailedError: the batch ended without it.
        """
        try:
            while (new := await self._answer.get()) is not None:
                yield new
                if new.finish is not FinishCode.RUNNING:
                    return
            raise BatchFailedError("the batch of this request failed; the server's log says why")
        finally:
            self.is_done = True

    def push(self, token: int) -> None:
        """Take the batch's next token of this row, if it still wants one."""
        if self.is_done:
            return
        self._num_tokens += 1
        finish = FinishCode.RUNNING
        if token in self.sampling.stop_token_ids and self._num_tokens > self.sampling.min_tokens:
            finish = FinishCode.STOP
        elif self._num_tokens == self.sampling.max_tokens:
            finish = FinishCode.LENGTH
        self.is_done = finish is not FinishCode.RUNNING
        self._answer.put_nowait(NewToken(token, finish))

    def fail(self) -> None:
        """No more tokens will come."""
        if not self.is_done:
            self._answer.put_nowait(None)


class StaticBatcher:
    """Owns the queue. `run` is the only one that computes, one batch at a time."""

    def __init__(self, model: PreTrainedModel, thread: Executor, *, max_batch_size: int, gather_s: float) -> None:
        """Nothing runs yet.

        Args:
            model: In transformers, on the CPU.
            thread: The one in which the model was loaded. When a second thread computes, GNU's OpenMP counts its team
                too, finds more threads than processors, and lets them sleep after each loop: 62 ms a token, not 34.
            max_batch_size: Requests of one batch at most.
            gather_s: How long an idle model waits for company of the first request. Without this, requests that are
                sent at once would be split into a batch of one and a batch of the others, for ever.
        """
        self._model = model
        self._thread = thread
        # Rows end when their own limits say so, not when the model's default end token comes by.
        self._model.generation_config.eos_token_id = None
        self._max_batch_size = max_batch_size
        self._gather_s = gather_s
        self._waiting: asyncio.Queue[StaticRequest] = asyncio.Queue()
        self._is_closing = False

    def submit(self, prompt: Sequence[int], sampling: SamplingParams) -> StaticRequest:
        """Put a request behind those that wait."""
        request = StaticRequest(prompt, sampling)
        self._waiting.put_nowait(request)
        return request

    async def run(self) -> None:
        """Compute batch after batch until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                batch = await self._gather()
                try:
                    await loop.run_in_executor(self._thread, self._generate, batch, loop)
                except RuntimeError:
                    # What torch raises when it lacks memory, say: these requests fail, others may not.
                    _log.exception("a batch of %d failed", len(batch))
                for request in batch:
                    request.fail()
        finally:
            self._is_closing = True

    async def _gather(self) -> list[StaticRequest]:
        batch = [await self._waiting.get()]
        deadline_s = time.monotonic() + self._gather_s
        while len(batch) < self._max_batch_size:
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
                continue
            try:
                batch.append(await asyncio.wait_for(self._waiting.get(), deadline_s - time.monotonic()))
            except TimeoutError:
                break
        return [request for request in batch if not request.is_done]

    def _generate(self, batch: list[StaticRequest], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own, so that the server answers meanwhile."""
        if not batch:
            return
        length = max(len(request.prompt) for request in batch)
        input_ids = torch.full((len(batch), length), _PAD)
        attention_mask = torch.zeros_like(input_ids)
        for row, request in enumerate(batch):
            input_ids[row, length - len(request.prompt) :] = torch.tensor(request.prompt)
            attention_mask[row, length - len(request.prompt) :] = 1
        with torch.inference_mode():
            self._model.generate(
                input_ids,
                attention_mask=attention_mask,
                max_new_tokens=max(request.sampling.max_tokens for request in batch),
                do_sample=False,
                pad_token_id=_PAD,
                streamer=_Delivery(batch, loop),
                stopping_criteria=StoppingCriteriaList([_AllDone(self, batch)]),
            )

    @property
    def is_closing(self) -> bool:
        """Whether the batch that runs is wanted by nobody."""
        return self._is_closing


class _Delivery(BaseStreamer):  # type: ignore[misc]  # transformers is not read
    """Hands each step's tokens to the requests, in the thread of their event loop."""

    def __init__(self, batch: list[StaticRequest], loop: asyncio.AbstractEventLoop) -> None:
        self._batch = batch
        self._loop = loop
        self._has_prompts = False

    def put(self, value: Tensor) -> None:
        """The prompts first, then [batch_size] tokens a step."""
        if self._has_prompts:
            self._loop.call_soon_threadsafe(self._deliver, value.tolist())
        self._has_prompts = True

    def end(self) -> None:
        """Nothing is held back that would have to go out now."""

    def _deliver(self, tokens: list[int]) -> None:
        for request, token in zip(self._batch, tokens, strict=True):
            request.push(token)


class _AllDone(StoppingCriteria):  # type: ignore[misc]  # transformers is not read
    """Ends a batch as soon as no row of it is wanted, which without end tokens is when the longest is complete."""

    def __init__(self, batcher: StaticBatcher, batch: list[StaticRequest]) -> None:
        self._batcher = batcher
        self._batch = batch

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        is_done = self._batcher.is_closing or all(request.is_done for request in self._batch)
        return torch.full((len(input_ids),), is_done, dtype=torch.bool)
