"""How `/v1/chat/completions` writes its answers."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from gateway.protocol.openai_responses import (
    ChatChoice,
    ChatChunkChoice,
    ChatLogprobs,
    Delta,
    FunctionCall,
    Message,
    MessageToolCall,
    Usage,
)
from gateway.shapes.content_logprobs import content_logprob
from gateway.shapes.shape import Output, Prompt, ShapeBase
from gateway.streaming.token_logprobs import ScoredToken
from gateway.text.choice_text import TextDelta, ToolCall


class ChatShape(ShapeBase):
    """Implements `Shape`. Messages have no place for their prompt's tokens: those stand beside the choices."""

    is_message = True
    _CHUNK = "chat.completion.chunk"

    def response(self, outputs: Sequence[Output], prompts: Sequence[Prompt], usage: Usage) -> bytes:
        """See `Shape`."""
        choices = [
            ChatChoice(
                index=index,
                message=_message(output),
                finish_reason=output.finish_reason,
                logprobs=self._logprobs(output.scored),
                stop_reason=output.stop_reason,
                token_ids=self._token_ids(output.token_ids),
            )
            for index, output in enumerate(outputs)
        ]
        (prompt,) = prompts
        return self._encode(
            "chat.completion",
            choices,
            usage,
            prompt_token_ids=self._token_ids(prompt.token_ids),
            prompt_logprobs=self._prompt_logprobs(prompt),
        )

    def opening_chunk(self, choice: int, prompt: Prompt) -> bytes | None:
        """The assistant's role."""
        opening = ChatChunkChoice(index=choice, delta=Delta(role="assistant", content=""))
        return self._chunk(opening, None, prompt_token_ids=self._token_ids(prompt.token_ids))

    def text_chunk(self, delta: TextDelta, usage: Usage | None = None) -> bytes:
        """See `Shape`."""
        choice = ChatChunkChoice(
            index=delta.choice,
            delta=_delta(delta),
            logprobs=self._logprobs(delta.scored),
            token_ids=self._token_ids(delta.token_ids),
        )
        return self._chunk(choice, usage)

    def closing_chunk(self, delta: TextDelta, usage: Usage | None = None) -> bytes:
        """See `Shape`."""
        choice = ChatChunkChoice(
            index=delta.choice, delta=Delta(), finish_reason=delta.finish_reason, stop_reason=delta.stop_reason
        )
        return self._chunk(choice, usage)

    def usage_chunk(self, usage: Usage) -> bytes:
        """See `Shape`."""
        return self._encode(self._CHUNK, (), usage)

    def _chunk(
        self,
        choice: ChatChunkChoice,
        usage: Usage | None,
        *,
        prompt_token_ids: Sequence[int] | UnsetType = UNSET,
    ) -> bytes:
        return self._encode(self._CHUNK, (choice,), self._chunk_usage(usage), prompt_token_ids=prompt_token_ids)

    def _logprobs(self, scored: Sequence[ScoredToken]) -> ChatLogprobs | None:
        if self.detail.num_top_logprobs is None:
            return None
        return ChatLogprobs([content_logprob(self._names, token) for token in scored])


def _message(output: Output) -> Message:
    reasoning = output.reasoning or UNSET
    if not output.calls:
        return Message("assistant", output.text, reasoning, reasoning)
    calls = [_call(call) for call in output.calls]
    return Message("assistant", output.text or None, reasoning, reasoning, calls)


def _delta(delta: TextDelta) -> Delta:
    if not (delta.reasoning or delta.calls):
        return Delta(content=delta.text)
    reasoning = delta.reasoning or UNSET
    calls = [msgspec.structs.replace(_call(call), index=call.call) for call in delta.calls]
    return Delta(
        content=delta.text or UNSET, reasoning=reasoning, reasoning_content=reasoning, tool_calls=calls or UNSET
    )


def _call(call: ToolCall) -> MessageToolCall:
    if call.name is None or call.call_id is None:
        return MessageToolCall(FunctionCall(call.arguments))
    return MessageToolCall(FunctionCall(call.arguments, call.name), id=call.call_id, type="function")
