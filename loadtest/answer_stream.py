"""A streamed answer as its bytes come in: server-sent events of OpenAI's chunks. Pure."""

from typing import Final

import msgspec

_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    role: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: object = None


_decode = msgspec.json.Decoder(_Chunk).decode


class AnswerStream:
    """Collects what is measured.

    A chunk counts as output if it carries text, or if it neither opens nor closes the answer (a token that has no text
    of its own). A chat's opening chunk, which names the role, comes before any token is computed; `vllm bench serve`
    takes it for the first token.

    Attributes:
        chunk_times_s: When each piece of output came.
        num_prompt_tokens: What the server counted; None if it did not say.
        num_output_tokens: What the server counted; None if it did not say.
        error: What the server reported instead of an end; None if it did not.
    """

    def __init__(self) -> None:
        self.chunk_times_s: list[float] = []
        self.num_prompt_tokens: int | None = None
        self.num_output_tokens: int | None = None
        self.error: str | None = None
        self.is_finished = False
        self._texts: list[str] = []
        self._tail = b""

    @property
    def text(self) -> str:
        """All output so far."""
        return "".join(self._texts)

    def push(self, data: bytes, now_s: float) -> None:
        """Take what has come in, cut anywhere.

        Raises:
            DecodeError: it is no stream of OpenAI's chunks.
        """
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            # Comments, which keep connections open, and the empty lines between events are passed over.
            if line.startswith(_DATA):
                self._take(line[len(_DATA) :].strip(), now_s)

    def _take(self, event: bytes, now_s: float) -> None:
        if event == _DONE:
            self.is_finished = True
            return
        chunk = _decode(event)
        if chunk.error is not None:
            self.error = msgspec.json.encode(chunk.error).decode()
        if chunk.usage is not None:
            self.num_prompt_tokens = chunk.usage.prompt_tokens
            self.num_output_tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            self._take_choice(choice, now_s)

    def _take_choice(self, choice: _Choice, now_s: float) -> None:
        delta = choice.delta
        text = choice.text if delta is None else delta.content or delta.reasoning or delta.reasoning_content
        is_closing = choice.finish_reason is not None
        is_opening = delta is not None and delta.role is not None
        self.is_finished |= is_closing
        if text:
            self._texts.append(text)
        elif is_opening or (is_closing and self.chunk_times_s):
            return
        self.chunk_times_s.append(now_s)
