"""One choice's output while it grows, for those who want it in one piece."""

from gateway.protocol.openai_responses import FinishReason
from gateway.shapes.shape import Output
from gateway.streaming.token_logprobs import ScoredToken
from gateway.text.choice_text import TextDelta, ToolCall


class OutputDraft:
    """Takes a choice's deltas, the last of which ends it."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._scored: list[ScoredToken] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._finish_reason: FinishReason = "stop"
        self._stop_reason: str | int | None = None

    def add(self, delta: TextDelta) -> None:
        """Take in more."""
        self._texts.append(delta.text)
        self._token_ids += delta.token_ids
        self._scored += delta.scored
        self._reasoning.append(delta.reasoning)
        for more in delta.calls:
            if more.name is not None:
                self._calls.append(more)
            else:
                call = self._calls[more.call]
                self._calls[more.call] = call._replace(arguments=call.arguments + more.arguments)
        if delta.finish_reason is not None:
            self._finish_reason, self._stop_reason = delta.finish_reason, delta.stop_reason

    def output(self) -> Output:
        """All of it."""
        return Output(
            "".join(self._texts),
            self._finish_reason,
            self._stop_reason,
            self._token_ids,
            self._scored,
            "".join(self._reasoning),
            self._calls,
        )
