"""From what clients send as a prompt to token ids."""

import asyncio
from collections.abc import Sequence
from typing import Final

from gateway.chat.conversation import Conversation
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import InvalidRequestError

_INLINE_CHARACTERS: Final = 4096
"""A longer text is tokenised in a thread: about a millisecond of the event loop."""


class PromptTokenizer:
    """Knows the model's tokenizer and who may bring a chat template.

    Args:
        tokenizer: The model's.
        trusts_templates: Whether a request may bring its own. Templates are programs: they run in a sandbox, which
            bounds what they reach, but not how long they take.
    """

    def __init__(self, tokenizer: Tokenizer, *, trusts_templates: bool = False) -> None:
        self.tokenizer = tokenizer
        self._trusts_templates = trusts_templates

    def render(self, conversation: Conversation) -> str:
        """The text of a conversation.

        Raises:
            InvalidRequestError: the template refuses it, or may not be brought.
        """
        if conversation.chat_template is not None and not self._trusts_templates:
            raise InvalidRequestError(
                "'chat_template' is refused: this server takes the model's own; to let requests bring theirs, start it "
                "with --trust-request-chat-template",
                param="chat_template",
            )
        return self.tokenizer.render_chat(
            conversation.template_messages, conversation.rendering, template=conversation.chat_template
        )

    async def conversation(self, conversation: Conversation) -> Sequence[int]:
        """The tokens of a conversation.

        Raises:
            InvalidRequestError: the template refuses it, or may not be brought.
        """
        return await self.text(self.render(conversation), add_special_tokens=conversation.add_special_tokens)

    async def text(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
        """The tokens of a text, with or without the model's own first (and last) ones."""
        if len(text) <= _INLINE_CHARACTERS:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)

    def check_ids(self, token_ids: Sequence[int], param: str) -> None:
        """See that token ids are in the vocabulary.

        Raises:
            InvalidRequestError: one of them is not.
        """
        size = self.tokenizer.vocab_size
        for token in token_ids:
            if not 0 <= token < size:
                raise InvalidRequestError(
                    f"'{param}': token id {token} is not in the vocabulary [0, {size})", param=param
                )

    def bad_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The tokens of words that must not come, as they stand at a text's beginning and after a space."""
        spellings = [prefix + word.lstrip() for word in words for prefix in ("", " ")]
        sequences = [tuple(self.tokenizer.encode(spelling, add_special_tokens=False)) for spelling in spellings]
        return tuple(dict.fromkeys(sequence for sequence in sequences if sequence))
