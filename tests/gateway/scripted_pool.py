"""A scheduler and a worker in one, on an in-memory bus, that answers every request with tokens of a script."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from gpu_worker.fake_embedding import fake_embedding
from gpu_worker.fake_logprobs import fake_logprobs
from shared.ids import BEFORE_FIRST_STEP, GatewayId, Handle, StepId, WorkerId
from shared.memory_bus import MemoryBus
from shared.messages import Cancel, Embedding, Fault, LogprobSpan, PoolStatus, StepResult, Submit, TokenBatch
from shared.packing import pack_u32, unpack_u32
from shared.sampling import FinishCode, Pooling

Answer = Callable[[Submit, int, int], "int | Fault | None"]
"""(request, choice, position) -> a token, the end by an error, or None to wait."""

VOCAB_SIZE = 258

_WRITER = WorkerId("w-1")
STATUS = PoolStatus(epoch=1, model="test", max_model_len=256, num_workers=1)


@dataclass
class _Row:
    submit: Submit
    entry: str
    choice: int
    num_tokens: int = 0
    finish: FinishCode = FinishCode.RUNNING


@dataclass
class ScriptedPool:
    """One step gives every running choice one token."""

    bus: MemoryBus
    answer: Answer
    status: PoolStatus | None = STATUS
    step_s: float = 0.0
    num_cached_tokens: int = 0
    tells_logprobs: bool = True
    submits: list[Submit] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)

    async def run(self) -> None:
        side = self.bus.scheduler("scripted")
        rows: list[_Row] = []
        previous: dict[GatewayId, StepId] = {}
        log = self.bus._state.results.get(_WRITER)  # of a pool before this one
        for step in itertools.count(log.last.step + 1 if log else 1):
            if self.status is not None:
                await side.publish_status(self.status)
            for delivery in await side.receive(timeout_s=self.step_s if rows else 0.02):
                entry, message = delivery.entry, delivery.message
                if isinstance(message, Submit):
                    self.submits.append(message)
                    rows += [_Row(message, entry, choice) for choice in range(message.sampling.n)]
                elif isinstance(message, Cancel):
                    self.cancels.append(message)
                    await side.finish([entry])
                    for row in rows:
                        if row.submit.request_id == message.request_id and message.choice in {None, row.choice}:
                            row.finish = FinishCode.STOP
            rows = await self._end(rows)
            batches = self._step(rows, StepId(1, step), previous)
            if batches:
                await side.emit(_WRITER, StepId(1, step), StepResult(batches))
            await asyncio.sleep(0)

    async def _end(self, rows: list[_Row]) -> list[_Row]:
        running = [row for row in rows if row.finish is FinishCode.RUNNING]
        alive = {row.entry for row in running}
        await self.bus.scheduler("scripted").finish({row.entry for row in rows} - alive)
        return running

    def _step(self, rows: list[_Row], step: StepId, previous: dict[GatewayId, StepId]) -> tuple[TokenBatch, ...]:
        batches = []
        for gateway in {row.submit.gateway_id for row in rows}:
            items: list[tuple[_Row, int]] = []
            faults = []
            for row in rows:
                if row.submit.gateway_id != gateway:
                    continue
                token = self.answer(row.submit, row.choice, row.num_tokens)
                if isinstance(token, Fault):
                    row.finish = FinishCode.ERROR
                    faults.append(Fault(row.submit.handle + row.choice, token.status, token.message))
                elif token is not None:
                    items.append((row, token))
            if items or faults:
                before = previous.get(gateway, BEFORE_FIRST_STEP)
                batches.append(self._batch(gateway, step, before, items, tuple(faults)))
                previous[gateway] = step
        return tuple(batches)

    def _batch(
        self,
        gateway: GatewayId,
        step: StepId,
        previous: StepId,
        items: list[tuple[_Row, int]],
        faults: tuple[Fault, ...],
    ) -> TokenBatch:
        positions = [row.num_tokens for row, _ in items]
        logprobs, prompt_logprobs = self._logprobs(items) if self.tells_logprobs else ((), ())
        for row, token in items:
            row.num_tokens += 1
            if token in row.submit.sampling.stop_token_ids:
                row.finish = FinishCode.STOP
            elif row.num_tokens == row.submit.sampling.max_tokens:
                row.finish = FinishCode.LENGTH
        return TokenBatch(
            gateway_id=gateway,
            worker_id=_WRITER,
            step=step,
            previous=previous,
            handles=pack_u32(row.submit.handle + row.choice for row, _ in items),
            indices=pack_u32(positions),
            counts=bytes([1] * len(items)),
            finishes=bytes(row.finish for row, _ in items),
            tokens=pack_u32(token for _, token in items),
            cached=pack_u32(self.num_cached_tokens for position in positions if position == 0),
            faults=faults,
            embeddings=tuple(
                Embedding(row.submit.handle, fake_embedding(unpack_u32(row.submit.prompt), row.submit.sampling.pooling))
                for row, _ in items
                if row.submit.sampling.pooling is not Pooling.NONE
            ),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )

    @staticmethod
    def _logprobs(items: list[tuple[_Row, int]]) -> tuple[tuple[LogprobSpan, ...], tuple[LogprobSpan, ...]]:
        """Those of a `FakeRunner`; the prompt's come with the first output token."""
        output, prompt = [], []
        for row, token in items:
            sampling, handle = row.submit.sampling, Handle(row.submit.handle + row.choice)
            if sampling.logprobs is not None:
                told = fake_logprobs([token], sampling.logprobs, VOCAB_SIZE)
                output.append(LogprobSpan(handle, row.num_tokens, told))
            tokens = unpack_u32(row.submit.prompt)[1:]
            if sampling.prompt_logprobs is not None and row.choice == row.num_tokens == 0 and tokens:
                told = fake_logprobs(tokens, sampling.prompt_logprobs, VOCAB_SIZE)
                prompt.append(LogprobSpan(handle, 1, told))
        return tuple(output), tuple(prompt)
