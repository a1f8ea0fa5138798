"""The work on a batch: read its input, answer each line once, write the files. Another gateway can go on anywhere.

A line is answered once: its outcome is a part of the batch's record, and only the holder of the claim can add one.
Whoever takes a batch over reads the outcomes that there are, and answers the other lines.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from gateway.batches.batch_object import BatchObject, Faults, LineFault, RequestCounts, Status
from gateway.batches.lines import (
    MAX_FAULTS,
    MAX_LINES,
    Line,
    LineReader,
    Outcome,
    expired,
    is_passing,
    outcome_of,
    refusal_of,
    request_of,
    usage_of,
)
from gateway.files.shelf import CHUNK_BYTES, FileShelf
from gateway.http.loopback import Answer, Loopback
from gateway.protocol.errors import as_request_error
from shared.archive import Archive, Claim
from shared.errors import BusError

_RETRY_S: Final = 1.0
"""Before a line is sent again that the pool had no place for."""

_LOOK_S: Final = 0.5
"""How often one looks whether the pool has a place again."""


class BatchWork:
    """Works on one batch at a time per call of `do`.

    Args:
        archive: Of batches.
        files: Where input and output are.
        loopback: Answers lines.
        is_idle: Whether nobody waits for the pool.
        max_lines_at_once: Lines of one batch that are in the pool.
    """

    def __init__(
        self,
        archive: Archive,
        files: FileShelf,
        loopback: Loopback,
        *,
        is_idle: Callable[[], bool],
        max_lines_at_once: int,
    ) -> None:
        self._archive = archive
        self._files = files
        self._loopback = loopback
        self._is_idle = is_idle
        self._max_lines_at_once = max_lines_at_once

    async def do(self, claim: Claim) -> None:
        """Go on with a batch until it is over.

        Raises:
            ClaimLostError: it was cancelled, or is another's.
            BusError: Redis does not answer.
        """
        data = await self._archive.read(claim.record_id)
        if data is None:
            return
        batch = _Progress(self._archive, claim, BatchObject.decode(data))
        try:
            if batch.now.status == "validating":
                await self._validate(batch)
            if batch.now.status == "in_progress":
                await batch.read_outcomes()
                await self._answer(batch)
            if batch.now.status in {"finalizing", "cancelling"}:
                await self._finalize(batch)
        except BusError:
            raise
        except Exception as error:
            known = as_request_error(error)
            fault = LineFault(known.code or "server_error", known.message)
            await batch.turn("failed", errors=Faults([fault]), is_over=True)

    async def _validate(self, batch: "_Progress") -> None:
        faults: list[LineFault] = []
        reader = LineReader(batch.now.endpoint)
        models: set[str] = set()
        async for data in self._files.lines(batch.now.input_file_id):
            line = reader.read(data)
            if isinstance(line, LineFault) and len(faults) < MAX_FAULTS:
                faults.append(line)
            elif isinstance(line, Line) and len(models) <= 1:
                models.add(str(line.body.get("model")))
        if not reader.num_lines:
            faults.append(LineFault("empty_file", "The input file is empty, or was deleted."))
        if reader.num_lines > MAX_LINES:
            message = f"The input file has {reader.num_lines} lines; at most {MAX_LINES} are taken."
            faults.insert(0, LineFault("too_many_tasks", message))
        if faults:
            await batch.turn("failed", errors=Faults(faults[:MAX_FAULTS]), is_over=True)
            return
        model = models.pop() if len(models) == 1 else None
        await batch.turn("in_progress", request_counts=RequestCounts(reader.num_lines), model=model)

    async def _answer(self, batch: "_Progress") -> None:
        """Answer the lines that have not been, a few at once, until all are or the time is up."""
        time_left_s = batch.now.expires_at - time.time()
        sending = asyncio.Semaphore(self._max_lines_at_once)
        try:
            async with asyncio.timeout(time_left_s), asyncio.TaskGroup() as tasks:
                async for line in self._lines(batch):
                    await sending.acquire()
                    await self._wait_until_idle()
                    task = tasks.create_task(self._answer_line(batch, line))
                    task.add_done_callback(lambda _: sending.release())
        except TimeoutError:
            async for line in self._lines(batch):
                await batch.add(expired(batch.now.id, line), {})
            await batch.turn("finalizing", expired_at=int(time.time()))
            return
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        await batch.turn("finalizing")

    async def _lines(self, batch: "_Progress") -> AsyncIterator[Line]:
        reader = LineReader(batch.now.endpoint)
        async for data in self._files.lines(batch.now.input_file_id):
            line = reader.read(data)
            if isinstance(line, Line) and line.index not in batch.answered:
                yield line

    async def _wait_until_idle(self) -> None:
        while not self._is_idle():  # noqa: ASYNC110 - the pool tells its status, not its changes
            await asyncio.sleep(_LOOK_S)

    async def _answer_line(self, batch: "_Progress", line: Line) -> None:
        answer = refusal_of(line) or await self._ask(batch.now.endpoint, line)
        await batch.add(outcome_of(batch.now.id, line, answer), usage_of(answer))

    async def _ask(self, endpoint: str, line: Line) -> Answer:
        request = request_of(line)
        while is_passing(answer := await self._loopback.post(endpoint, request)):
            await asyncio.sleep(_RETRY_S)
            await self._wait_until_idle()
        return answer

    async def _finalize(self, batch: "_Progress") -> None:
        """Write the files; the batch names them in the same act that ends it."""
        now, counts = batch.now, batch.now.request_counts
        output = await self._write(batch, "output", is_failure=False) if counts.completed else None
        error = await self._write(batch, "error", is_failure=True) if counts.failed else None
        files = {"output_file_id": output, "error_file_id": error}
        try:
            if now.status == "cancelling":
                await batch.turn("cancelled", is_over=True, **files)
            elif now.expired_at is not None:
                await batch.turn("expired", is_over=True, **files, expired_at=now.expired_at)
            else:
                await batch.turn("completed", is_over=True, **files)
        except BaseException:
            for file_id in filter(None, files.values()):
                await self._files.delete(file_id)
            raise

    async def _write(self, batch: "_Progress", name: str, *, is_failure: bool) -> str:
        async def chunks() -> AsyncIterator[bytes]:
            rest = b""
            async for outcome in batch.outcomes():
                if outcome.is_failure == is_failure:
                    rest += outcome.text + b"\n"
                while len(rest) >= CHUNK_BYTES:
                    yield rest[:CHUNK_BYTES]
                    rest = rest[CHUNK_BYTES:]
            if rest:
                yield rest

        filename = f"{batch.now.id}_{name}.jsonl"
        file = await self._files.add(filename, "batch_output", chunks(), ttl_s=batch.now.output_ttl_s)
        return file.id


class _Progress:
    """A batch under our claim.

    Attributes:
        now: As the archive has it.
        answered: Indices of lines that have an outcome.
    """

    def __init__(self, archive: Archive, claim: Claim, batch: BatchObject) -> None:
        self._archive = archive
        self._claim = claim
        self._writing = asyncio.Lock()
        self._num_outcomes = 0
        self.now = batch
        self.answered: set[int] = set()

    async def read_outcomes(self) -> None:
        """Learn what an earlier holder of the claim has answered."""
        async for outcome in self.outcomes():
            self.answered.add(outcome.index)
        self._num_outcomes = len(self.answered)

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """All outcomes so far, in the order of their answers."""
        start = 0
        while parts := await self._archive.parts(self.now.id, start, limit=16):
            start += len(parts)
            for part in parts:
                yield Outcome.decode(part)

    async def add(self, outcome: Outcome, usage: dict[str, Any]) -> None:
        """A line has been answered. Written in one act with the counts."""
        async with self._writing:
            counts = self.now.request_counts
            changed = msgspec.structs.replace(
                self.now,
                request_counts=RequestCounts(
                    counts.total, counts.completed + (not outcome.is_failure), counts.failed + outcome.is_failure
                ),
                usage=self.now.usage.plus(usage),
            )
            await self._archive.update(
                self._claim, document=changed.encode(), parts=[outcome.encode()], num_parts=self._num_outcomes
            )
            self.now = changed
            self._num_outcomes += 1
            self.answered.add(outcome.index)

    async def turn(self, status: Status, *, is_over: bool = False, **fields: Any) -> None:  # noqa: ANN401
        """The batch enters its next status; if it is its last, the outcomes are in files, and go."""
        async with self._writing:
            changed = self.now.turned(status, **fields)
            await self._archive.update(self._claim, document=changed.encode(), is_done=is_over, drops_parts=is_over)
            self.now = changed
