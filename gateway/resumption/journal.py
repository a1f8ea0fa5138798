"""What comes of a stream, noted until it is kept. Writes under a claim: whoever goes on with the stream takes it."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.resumption.record import Checkpoint
from gateway.streaming.gap import TokenItem
from gateway.streaming.streams import ChoiceDelta, TokenStream
from gateway.streaming.token_logprobs import TokenLogprobs
from shared.archive import Archive, Claim
from shared.ids import Handle, StepId, WorkerId
from shared.sampling import FinishCode

CHECKPOINT_S: Final = 10.0
"""How often is kept what has come. The logs of tokens reach back further than this and the grace of a lost gateway."""


@dataclass(slots=True)
class _Noted:
    """Tokens of one choice, from a position on."""

    position: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: FinishCode = FinishCode.RUNNING


class StreamJournal:
    """Of one stream, as long as one gateway follows it.

    Attributes:
        claim: To the stream's record.
        is_keyed: Its client may come back.

    Args:
        archive: Where records are.
        stream: New, or as it was restored.
        checkpoints: Those that the record has.
        cursors: By writer, up to where its log is in the stream.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        archive: Archive,
        claim: Claim,
        *,
        is_keyed: bool,
        stream: TokenStream,
        cursors: Callable[[], Mapping[WorkerId, StepId]],
        clock: Callable[[], float],
        checkpoints: Sequence[Checkpoint] = (),
    ) -> None:
        self.is_keyed = is_keyed
        self.claim = claim
        self._archive = archive
        self._stream = stream
        self._cursors = cursors
        self._clock = clock
        self._num_parts = len(checkpoints)
        self._kept = [0] * len(stream.choices)
        for item in (item for checkpoint in checkpoints for item in checkpoint.items):
            self._kept[item.handle - stream.first_handle] += len(item.tokens)
        self._noted: dict[int, _Noted] = {}
        self._told_prompts: dict[Handle, int] = {}
        self._unsaved: list[bytes] = []
        self._saving = asyncio.Lock()
        self._taken_s = clock()
        self._steps: Mapping[WorkerId, StepId] = {}

    def note(self, deltas: Iterable[ChoiceDelta]) -> None:
        """Take in what has just been taken from the stream, all of it."""
        for delta in deltas:
            choice = self._stream.choices[delta.choice]
            position = choice.num_tokens - len(delta.tokens)
            num_known = max(0, self._kept[delta.choice] - position)
            noted = self._noted.setdefault(delta.choice, _Noted(position + num_known))
            noted.tokens += delta.tokens[num_known:]
            noted.logprobs += delta.logprobs[num_known:]
            if delta.finish is not FinishCode.ERROR:
                noted.finish = delta.finish
        if not any(choice.has_gap for choice in self._stream.choices):
            self._steps = self._cursors()

    def take_if_due(self) -> bool:
        """Whether it is time to save; if so, what has come is ready to be saved."""
        now_s = self._clock()
        if now_s - self._taken_s < CHECKPOINT_S or any(choice.has_gap for choice in self._stream.choices):
            return False
        self._taken_s = now_s
        self.take(is_over=False)
        return True

    def take(self, *, is_over: bool) -> None:
        """Make a checkpoint of what has come."""
        items = []
        for choice, noted in self._noted.items():
            stream = self._stream.choices[choice]
            items.append(
                TokenItem(
                    stream.handle,
                    noted.position,
                    noted.tokens,
                    noted.finish,
                    stream.num_cached_tokens,
                    noted.logprobs,
                )
            )
            self._kept[choice] = noted.position + len(noted.tokens)
        self._noted = {}
        self._unsaved.append(Checkpoint(items, self._new_prompts(), self._steps, is_over).encode())

    async def save(self, *, ttl_s: float | None = None) -> None:
        """Keep all checkpoints that were made. What cannot be kept now is kept with the next ones.

        Raises:
            ClaimLostError: another gateway, or another connection, goes on with the stream; or the record is gone.
            StorageFullError: it does not fit.
            BusUnavailableError: Redis does not answer.
        """
        async with self._saving:
            parts = list(self._unsaved)
            await self._archive.update(self.claim, parts=parts, num_parts=self._num_parts, ttl_s=ttl_s)
            self._num_parts += len(parts)
            del self._unsaved[: len(parts)]

    async def forget(self) -> None:
        """Drop the record; raises as `save` does."""
        async with self._saving:
            await self._archive.update(self.claim, ttl_s=0)

    def _new_prompts(self) -> dict[Handle, Mapping[int, TokenLogprobs]]:
        told: dict[Handle, Mapping[int, TokenLogprobs]] = {}
        for choice in self._stream.choices:
            if len(choice.prompt_logprobs) > self._told_prompts.get(choice.handle, 0):
                told[choice.handle] = dict(choice.prompt_logprobs)
                self._told_prompts[choice.handle] = len(choice.prompt_logprobs)
        return told
