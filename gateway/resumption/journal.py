"""What comes of a stream, noted until it is kept. Writes under a claim: whoever goes on with the stream takes it."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from gateway.resumption.record import Checkpoint
from gateway.streaming.gap import Cursors, TokenItem
from gateway.streaming.streams import ChoiceDelta, TokenStream
from gateway.streaming.token_logprobs import TokenLogprobs
from shared.archive import Archive, Claim
from shared.ids import Handle, StepId, WorkerId
from shared.sampling import FinishCode

CHECKPOINT_S: Final = 10.0
"""How often is kept what has come. The logs of tokens reach back further than this and the grace of a lost gateway."""


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
        cursors: Cursors,
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
        self._noted: dict[int, int] = {}  # by choice, tokens that have come, those that are kept included
        self._logprobs: dict[int, list[TokenLogprobs]] = {}
        self._finishes: dict[int, FinishCode] = {}
        self._told_prompts: dict[Handle, int] = {}
        self._unsaved: list[bytes] = []
        self._saving = asyncio.Lock()
        self._taken_s = clock()
        self._steps: Mapping[WorkerId, StepId] = {}

    def note(self, deltas: Iterable[ChoiceDelta]) -> None:
        """Take in what has just been taken from the stream, all of it. Its tokens are in the stream still."""
        for delta in deltas:
            place = delta.choice
            self._noted[place] = num_tokens = self._stream.choices[place].num_tokens
            if delta.logprobs:
                num_known = max(0, self._kept[place] - (num_tokens - len(delta.tokens)))
                self._logprobs.setdefault(place, []).extend(delta.logprobs[num_known:])
            if delta.finish and delta.finish is not FinishCode.ERROR:
                self._finishes[place] = delta.finish
        if not self._stream.has_gap:
            self._steps = self._cursors.steps

    def take_if_due(self) -> bool:
        """Whether it is time to save; if so, what has come is ready to be saved."""
        now_s = self._clock()
        if now_s - self._taken_s < CHECKPOINT_S or self._stream.has_gap:
            return False
        self._taken_s = now_s
        self.take(is_over=False)
        return True

    def take(self, *, is_over: bool) -> None:
        """Make a checkpoint of what has come."""
        items = []
        for place, num_tokens in self._noted.items():
            choice, num_kept = self._stream.choices[place], self._kept[place]
            items.append(
                TokenItem(
                    choice.handle,
                    num_kept,
                    choice.output[num_kept:num_tokens].tolist(),
                    self._finishes.pop(place, FinishCode.RUNNING),
                    choice.num_cached_tokens,
                    self._logprobs.pop(place, []),
                )
            )
            self._kept[place] = num_tokens
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
