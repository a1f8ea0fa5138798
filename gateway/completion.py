"""One API call from its submission to its end, whoever ends it: the model, a stop string, an error or the client."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from gateway.choice_text import ChoiceText, TextDelta
from gateway.errors import error_of_fault
from gateway.metrics import GatewayMetrics, RequestTimer
from gateway.openai_responses import FinishReason, Output, PromptTokensDetails, Usage
from gateway.streams import ChoiceDelta, TokenRouter, TokenStream
from gateway.submission import Submission
from gateway.vocabulary import Vocabulary
from shared.bus import GatewayBus
from shared.messages import Cancel, Submit
from shared.sampling import FinishCode

_logger = logging.getLogger(__name__)


class CompletionStarter(NamedTuple):
    """What every completion needs, and none owns.

    Attributes:
        max_requests: Requests in the pool above which the bus refuses another one.
    """

    bus: GatewayBus
    router: TokenRouter
    vocabulary: Vocabulary
    metrics: GatewayMetrics
    max_requests: int

    async def start(self, submission: Submission, *, is_whole_text: bool) -> "Completion":
        """Send the requests. The stream is open before, so that no token comes too early.

        Raises:
            QueueFullError: the pool is full. Nothing of this call stays in it.
            BusUnavailableError: Redis does not answer.
        """
        stream = self.router.open(submission.num_choices)
        messages = submission.messages(self.bus.gateway_id, stream.first_handle)
        completion = Completion(self, submission, stream, messages, is_whole_text=is_whole_text)
        try:
            await completion.submit()
        except BaseException:
            completion.close("rejected")
            raise
        return completion


class Completion:
    """The choices of one API call. Whoever starts it closes it.

    Invariant: a request that may still be running when this closes is cancelled.
    """

    def __init__(
        self,
        shared: CompletionStarter,
        submission: Submission,
        stream: TokenStream,
        messages: Sequence[Submit],
        *,
        is_whole_text: bool,
    ) -> None:
        self._shared = shared
        self._submission = submission
        self._stream = stream
        self._messages = messages
        self._num_sent = 0
        self._is_accepted = False
        self._timer = RequestTimer(shared.metrics, submission.num_choices)
        self._choices = [
            ChoiceText(i, shared.vocabulary, submission.stops, is_whole_text=is_whole_text)
            for i in range(submission.num_choices)
        ]
        self._finish_reason: FinishReason | None = None
        self._is_closed = False

    @property
    def num_choices(self) -> int:
        """Over all prompts."""
        return len(self._choices)

    @property
    def is_done(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.is_finished for choice in self._choices)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        num_prompt = sum(len(prompt.token_ids) for prompt in self._submission.prompts)
        num_output = sum(choice.num_tokens for choice in self._choices)
        firsts = self._stream.choices[:: self._submission.num_choices_per_prompt]
        num_cached = sum(choice.num_cached_tokens for choice in firsts)
        return Usage(num_prompt, num_output, num_prompt + num_output, PromptTokensDetails(num_cached))

    async def submit(self) -> None:
        """Put the requests on the bus, once."""
        for message in self._messages:
            self._num_sent += 1
            await self._shared.bus.submit(message, max_requests=self._shared.max_requests)
        self._is_accepted = True
        self._shared.metrics.prompt_tokens.inc(self.usage.prompt_tokens)

    async def next(self) -> list[TextDelta]:
        """Wait for more text or an end, and return all there is.

        Raises:
            RequestError: a choice could not be served, and with it the call.
        """
        return [self._take(delta) for delta in await self._stream.next() if not self._choices[delta.choice].is_finished]

    async def collect(self) -> list[Output]:
        """Wait for the end of every choice.

        Raises:
            RequestError: a choice could not be served, and with it the call.
        """
        texts: list[list[str]] = [[] for _ in self._choices]
        reasons: list[FinishReason] = ["stop"] * len(self._choices)
        while not self.is_done:
            for delta in await self.next():
                texts[delta.choice].append(delta.text)
                if delta.finish_reason is not None:
                    reasons[delta.choice] = delta.finish_reason
        return [Output("".join(text), reason) for text, reason in zip(texts, reasons, strict=True)]

    def close(self, reason: str = "disconnect") -> None:
        """Forget the call, and cancel what may still be running of it. Calling it again does nothing.

        Args:
            reason: Why it is over, if it is not because every choice has ended.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._shared.router.close(self._stream)
        n = self._submission.num_choices_per_prompt
        for i, message in enumerate(self._messages[: self._num_sent]):
            if not all(choice.is_finished for choice in self._choices[i * n : (i + 1) * n]):
                self._shared.router.cancel(Cancel(request_id=message.request_id, reason=reason))
        if self._is_accepted:
            self._report(self._finish_reason if self.is_done and self._finish_reason else reason)

    def _take(self, delta: ChoiceDelta) -> TextDelta:
        if delta.finish is FinishCode.ERROR:
            raise error_of_fault(delta.fault)
        if delta.tokens:
            self._timer.tokens(delta.choice, len(delta.tokens))
        text = self._choices[delta.choice].push(delta.tokens, delta.finish)
        if text.finish_reason is not None:
            self._finish_reason = text.finish_reason
        if text.stopped_here:
            prompt, choice = divmod(delta.choice, self._submission.num_choices_per_prompt)
            request_id = self._messages[prompt].request_id
            self._shared.router.cancel(Cancel(request_id=request_id, reason="stop", choice=choice))
        return text

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
