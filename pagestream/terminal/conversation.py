"""A conversation: what was said, and what is asked next."""

from collections.abc import Generator, Mapping
from typing import Final

from pagestream.terminal.openai_client import Message, OpenAIClient, Piece

RESET: Final = "/reset"
"""Begins a new conversation."""


class Conversation:
    """Keeps both sides' messages. An answer that was cut off stays as far as it came; one that never began does not."""

    def __init__(self, client: OpenAIClient, parameters: Mapping[str, object], *, system_prompt: str | None) -> None:
        self._client = client
        self._parameters = parameters
        self._opening: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self._messages = list(self._opening)

    def say(self, line: str) -> Generator[Piece, None, None]:
        """The answer to a line, piece by piece.

        Raises:
            ServerError: there is none; the line is forgotten.
        """
        if line.strip() == RESET:
            self._messages = list(self._opening)
            yield Piece("forgotten")
            return
        question: Message = {"role": "user", "content": line}
        answer = ""
        try:
            for piece in self._client.chat([*self._messages, question], self._parameters):
                answer += "" if piece.is_reasoning else piece.text
                yield piece
        finally:
            if answer:
                self._messages += [question, {"role": "assistant", "content": answer}]
