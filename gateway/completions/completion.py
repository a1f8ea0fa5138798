"""One API call from its submission to its end, whoever ends it: the model, a stop string, an error or the client."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from gateway.completions.best_of import keep_best
from gateway.completions.expiry import expire
from gateway.completions.output_draft import OutputDraft
from gateway.completions.prompt_report import echo, is_told, prompt_of
from gateway.completions.submission import PreparedPrompt, Submission
from gateway.monitoring.metrics import GatewayMetrics, RequestTimer
from gateway.protocol.errors import GenerationError, error_of_fault
from gateway.protocol.openai_responses import CompletionTokensDetails, FinishReason, PromptTokensDetails, Usage
from gateway.resumption.followers import Followers
from gateway.resumption.journal import StreamJournal
from gateway.resumption.keeper import KeptStream, StreamKeeper
from gateway.resumption.record import StreamRecord
from gateway.shapes.shape import Output, Prompt
from gateway.streaming.gap import ChoiceStream
from gateway.streaming.in_flight import InFlightRequests
from gateway.streaming.streams import RESUMED_ELSEWHERE, ChoiceDelta, OnNews, TokenRouter, TokenStream
from gateway.text.choice_text import TextDelta
from gateway.tokenizers.vocabulary import Vocabulary
from shared.admission import queue_full
from shared.bus import GatewayBus
from shared.messages import Cancel, Fault, PoolStatus, Submit
from shared.sampling import FinishCode

_logger = logging.getLogger(__name__)


class CompletionStarter(NamedTuple):
    """What every completion needs, and none owns.

    Attributes:
        max_requests: Requests in the pool above which the bus refuses another one.
    """

    bus: GatewayBus
    router: TokenRouter
    in_flight: InFlightRequests
    vocabulary: Vocabulary
    metrics: GatewayMetrics
    keeper: StreamKeeper
    followers: Followers
    max_requests: int

    async def check_room(self, status: PoolStatus | None) -> None:
        """Before anything is made of a call, see that the pool takes it. Only `start` says for certain.

        Args:
            status: Of the pool. If nobody waits there, there is room.

        Raises:
            QueueFullError: the pool is full.
            BusUnavailableError: Redis does not answer.
        """
        if status is not None and status.num_waiting:
            num_requests = await self.bus.num_requests()
            if num_requests >= self.max_requests:
                raise queue_full(num_requests, status)

    async def start(self, submission: Submission, record: StreamRecord | None = None) -> "Completion":
        """Send the requests. The stream is open before, so that no token comes too early.

        Args:
            submission: What to send.
            record: How the call was made, if it is to be kept so that it can be gone on with.

        Raises:
            QueueFullError: the pool is full. Nothing of this call stays in it.
            RecordExistsError: the record's idempotency key has been used; nothing was sent.
            BusUnavailableError: Redis does not answer.
        """
        stream = self.router.open(submission.num_choices)
        messages = submission.messages(self.bus.gateway_id, stream.first_handle)
        completion = Completion(self, submission, stream, messages)
        try:
            if record is not None:
                addressed = msgspec.structs.replace(record, gateway_id=self.bus.gateway_id)
                completion.journal = await self.keeper.keep(addressed, stream, self.router.cursors)
                completion.is_kept = completion.journal is not None
            await completion.submit()
        except BaseException:
            completion.close("rejected")
            raise
        return completion

    async def resume(self, submission: Submission, kept: KeptStream) -> "Completion":
        """Go on with a call that was begun on another connection, from its first token on.

        Args:
            submission: As it was made then.
            kept: Its record.

        Raises:
            BusUnavailableError: Redis does not answer.
        """
        address = kept.record
        messages = submission.messages(address.gateway_id, address.first_handle)
        request_ids = [message.request_id for message in messages]
        stream, router = await self.followers.follow(kept, submission.num_choices, request_ids)
        completion = Completion(self._replace(router=router), submission, stream, messages, is_sent=True)
        if not kept.is_over:
            completion.journal = self.keeper.resume(kept, stream, router.cursors)
        self.metrics.resumed.inc()
        return completion


class Completion:
    """The choices of one API call. Whoever starts it closes it.

    Invariants: a request that may still be running when this closes is cancelled, unless somebody else goes on with it;
    no text of a choice comes before all that is to be told of its prompt is here.

    Attributes:
        journal: Keeps what comes; None if that is not wanted, or all of it is kept already.
        is_kept: Whether it can be gone on with.
    """

    def __init__(
        self,
        shared: CompletionStarter,
        submission: Submission,
        stream: TokenStream,
        messages: Sequence[Submit],
        *,
        is_sent: bool = False,
    ) -> None:
        self.journal: StreamJournal | None = None
        self.is_kept = is_sent
        self._shared = shared
        self._submission = submission
        self._stream = stream
        self._messages = messages
        self._num_sent = len(messages) if is_sent else 0
        self._is_accepted = False
        self._timer = RequestTimer(shared.metrics, submission.num_choices)
        self._choices = submission.readers(shared.vocabulary)
        samplings = [prompt.sampling for prompt in submission.prompts]
        self._tells_prompts = any(sampling.prompt_logprobs is not None for sampling in samplings)
        self._tells_logprobs = any(sampling.logprobs is not None for sampling in samplings)
        self._early: list[ChoiceDelta] = []
        self._unechoed = {choice for choice in range(submission.num_choices) if self._prompt_at(choice).echo}
        self._finish_reason: FinishReason | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def num_choices(self) -> int:
        """Over all prompts."""
        return len(self._choices)

    @property
    def is_done(self) -> bool:
        """Whether every choice has ended."""
        for choice in self._choices:  # noqa: SIM110 - asked for each token, and a third of the time of all()
            if not choice.is_finished:
                return False
        return True

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        num_prompt = sum(len(prompt.token_ids) for prompt in self._submission.prompts)
        num_output = sum(choice.num_tokens for choice in self._choices)
        firsts = self._stream.choices[:: self._submission.num_choices_per_prompt]
        num_cached = sum(choice.num_cached_tokens for choice in firsts)
        num_reasoning = sum(choice.num_reasoning_tokens for choice in self._choices)
        return Usage(
            num_prompt,
            num_output,
            num_prompt + num_output,
            PromptTokensDetails(num_cached),
            CompletionTokensDetails(num_reasoning),
        )

    async def submit(self) -> None:
        """Put the requests on the bus, once."""
        n = self._submission.num_choices_per_prompt
        for i, message in enumerate(self._messages):
            self._num_sent += 1
            choices = self._stream.choices[i * n : (i + 1) * n]
            await self._shared.in_flight.submit(message, choices, max_requests=self._shared.max_requests)
        self._is_accepted = True
        self._expiry = expire(self._stream, self._submission.deadline_ms)
        self._shared.metrics.prompt_tokens.inc(self.usage.prompt_tokens)

    @property
    def prompts(self) -> list[Prompt]:
        """What may be told of the prompts so far."""
        return [self._told_prompt(choice) for choice in self._first_choices]

    @property
    def embeddings(self) -> list[bytes | None]:
        """Of each choice's prompt, once it has ended: f32 [hidden_size], if that was asked for."""
        return [choice.embedding for choice in self._stream.choices]

    async def next(self) -> Iterator[TextDelta]:
        """Wait for more text or an end; then all there is, token by token, with `usage` as of each.

        Raises:
            RequestError: a choice could not be served, and with it the call.
        """
        await self._stream.wait()
        return self.take()

    async def wait(self, on_news: OnNews) -> None:
        """Wait for more text or an end, which is taken by `on_news`; see `TokenStream.wait`."""
        await self._stream.wait(on_news)

    def take(self) -> Iterator[TextDelta]:
        """All there is and has not been taken, token by token, with `usage` as of each. To be used up before the next.

        Raises:
            RequestError: a choice could not be served, and with it the call.
        """
        fresh = self._stream.take()
        if self.journal is not None:
            self.journal.note(fresh)
            self._shared.keeper.note(self.journal, on_loss=self._lose)
        if self._early:
            fresh, self._early = [*self._early, *fresh], []
        return self._texts(fresh)

    async def collect(self) -> list[Output]:
        """Wait for the end of every choice; returns as many for each prompt as are answered.

        Raises:
            RequestError: a choice could not be served, and with it the call.
        """
        drafts = [OutputDraft() for _ in self._choices]
        while not self.is_done:
            for delta in await self.next():
                drafts[delta.choice].add(delta)
        outputs = [draft.output() for draft in drafts]
        submission = self._submission
        return keep_best(outputs, num_made=submission.num_choices_per_prompt, num_kept=submission.num_kept)

    def close(self, reason: str = "disconnect") -> None:
        """Forget the call, and cancel what may still be running of it. Calling it again does nothing.

        Args:
            reason: Why it is over, if it is not because every choice has ended.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        self._shared.router.close(self._stream)
        cancel = partial(self._cancel, self._forget(reason))
        if self.journal is None:
            cancel()
        elif self.is_done:
            self._shared.keeper.end(self.journal)
            cancel()
        else:
            is_broken = reason in {"error", "rejected"}
            self._shared.keeper.leave(self.journal, cancel, is_broken=is_broken)
        if self._is_accepted:
            self._report(self._finish_reason if self.is_done and self._finish_reason else reason)

    def _forget(self, reason: str) -> list[Cancel]:
        """Submit nothing of it again. Returns what cancels the requests that may still be running."""
        n = self._submission.num_choices_per_prompt
        cancels = []
        for i, message in enumerate(self._messages[: self._num_sent]):
            choices = self._choices[i * n : (i + 1) * n]
            may_run_again = self._shared.in_flight.forget(message.request_id)
            if may_run_again or not all(choice.is_finished for choice in choices):
                delivered = tuple(choice.num_tokens for choice in choices)
                cancels.append(Cancel(request_id=message.request_id, reason=reason, delivered=delivered))
        return cancels

    def _cancel(self, cancels: Sequence[Cancel]) -> None:
        for cancel in cancels:
            self._shared.router.cancel(cancel)

    def _lose(self) -> None:
        """Somebody else goes on with this call."""
        for choice in self._stream.choices:
            choice.fail(Fault(choice.handle, HTTPStatus.CONFLICT, RESUMED_ELSEWHERE))
            self._stream.note(choice.handle)
        self._stream.tell()

    @property
    def _first_choices(self) -> range:
        """Of each prompt: they are told of it."""
        return range(0, len(self._choices), self._submission.num_choices_per_prompt)

    def _prompt_at(self, choice: int) -> PreparedPrompt:
        return self._submission.prompts[choice // self._submission.num_choices_per_prompt]

    def _first_of(self, choice: int) -> ChoiceStream:
        return self._stream.choices[choice - choice % self._submission.num_choices_per_prompt]

    def _told_prompt(self, choice: int) -> Prompt:
        return prompt_of(self._prompt_at(choice).token_ids, self._first_of(choice).prompt_logprobs)

    def _is_early(self, delta: ChoiceDelta) -> bool:
        """Whether something of the prompt is still to be told. Other choices can be ahead of the first."""
        prompt, first = self._prompt_at(delta.choice), self._first_of(delta.choice)
        if prompt.sampling.prompt_logprobs is None or is_told(len(prompt.token_ids), first.prompt_logprobs):
            return False
        if first.num_tokens:
            raise GenerationError("the log-probabilities of the prompt were lost")
        return True

    def _texts(self, deltas: Sequence[ChoiceDelta]) -> Iterator[TextDelta]:
        for delta in deltas:
            reader = self._choices[delta.choice]
            if reader.is_finished:
                continue
            if delta.finish is FinishCode.ERROR:
                raise error_of_fault(delta.fault)
            if self._tells_prompts and self._is_early(delta):
                self._early.append(delta)
                continue
            if delta.tokens and self._is_accepted:
                self._timer.tokens(delta.choice, len(delta.tokens))
            if self._tells_logprobs:
                self._check_logprobs(delta)
            if self._unechoed:
                yield from self._echo(delta)
            for part in _single_tokens(delta):
                text = reader.push(part.tokens, part.finish, part.logprobs)
                if text.finish_reason is None:
                    yield text
                    continue
                self._end_choice(delta.choice, text)
                yield text
                break

    def _end_choice(self, place: int, text: TextDelta) -> None:
        self._finish_reason = text.finish_reason
        if text.stopped_here:
            self._stream.choices[place].stop()
            prompt, choice = divmod(place, self._submission.num_choices_per_prompt)
            request_id = self._messages[prompt].request_id
            delivered = (self._choices[place].num_tokens,)
            self._shared.router.cancel(Cancel(request_id=request_id, reason="stop", choice=choice, delivered=delivered))

    def _check_logprobs(self, delta: ChoiceDelta) -> None:
        is_asked = self._prompt_at(delta.choice).sampling.logprobs is not None
        if is_asked and len(delta.logprobs) != len(delta.tokens):
            raise GenerationError("a worker gave tokens without the log-probabilities that the request asks for")

    def _echo(self, delta: ChoiceDelta) -> list[TextDelta]:
        if delta.choice not in self._unechoed or not (delta.tokens or delta.finish):
            return []
        self._unechoed.discard(delta.choice)
        text = self._prompt_at(delta.choice).echo
        return [echo(delta.choice, text, self._told_prompt(delta.choice), self._shared.vocabulary)]

    def _report(self, reason: str) -> None:
        self._timer.end(reason)
        usage = self.usage
        _logger.info(
            "request %s ended: %s, %d prompt tokens (%d cached), %d output tokens, %.3f s to the first, %.3f s in all",
            self._submission.completion_id,
            reason,
            usage.prompt_tokens,
            usage.prompt_tokens_details.cached_tokens,
            usage.completion_tokens,
            self._timer.first_token_s or 0.0,
            self._timer.elapsed_s,
        )


def _single_tokens(delta: ChoiceDelta) -> Iterable[ChoiceDelta]:
    """The same, token by token: what a client is told at a time must not depend on how fast tokens came."""
    last = len(delta.tokens) - 1
    if last <= 0:
        return (delta,)
    return (
        ChoiceDelta(
            delta.choice,
            [token],
            delta.logprobs[place : place + 1],
            delta.finish if place == last else FinishCode.RUNNING,
            delta.fault,
        )
        for place, token in enumerate(delta.tokens)
    )
