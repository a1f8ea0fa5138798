"""One model's tokenizer, as the gateway needs it: text and conversations to ids, ids to bytes."""

from collections.abc import Iterable, Mapping, Sequence

import tokenizers

from gateway.tokenizers.chat_template import DEFAULT_RENDERING, ChatTemplate, Rendering, template_of_request
from gateway.tokenizers.detokenizer import IncrementalDetokenizer
from gateway.tokenizers.vocabulary import Vocabulary
from gateway.tool_calls.history import ChatMessage
from shared.errors import InvalidRequestError


class Tokenizer:
    """Immutable; safe to use from several threads.

    Attributes:
        vocabulary: The bytes of each token.
        eos_token_ids: Tokens that end an answer.
        chat_template: The model's own, if it has one.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token_ids: Iterable[int] = (),
        chat_template: ChatTemplate | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._backend = backend
        self._special_tokens = special_tokens or {}
        self.chat_template = chat_template
        self.vocabulary = Vocabulary.of(backend)
        self.eos_token_ids = tuple(dict.fromkeys(eos_token_ids))

    @property
    def vocab_size(self) -> int:
        """The largest token id plus one."""
        return len(self.vocabulary.token_bytes)

    def to_json(self) -> str:
        """The content of a `tokenizer.json` that tokenizes the same."""
        return str(self._backend.to_str())

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Special tokens that are written out in it are recognised, as transformers does.

        Args:
            text: Any text.
            add_special_tokens: Put the model's own first (and last) tokens around it.
        """
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def render_chat(
        self, messages: Sequence[ChatMessage], how: Rendering = DEFAULT_RENDERING, *, template: str | None = None
    ) -> str:
        """The text of a conversation; it holds its special tokens already.

        Args:
            messages: At least one.
            how: What else the template is told.
            template: Instead of the model's own.

        Raises:
            InvalidRequestError: the model has no chat template, or the template refuses these messages.
        """
        chosen = self.chat_template
        if template is not None:
            chosen = template_of_request(template, self._special_tokens)
        if chosen is None:
            raise InvalidRequestError(
                "this model has no chat template; send the prompt as text to /v1/completions", param="messages"
            )
        return chosen.render(messages, how)

    def token_string(self, token_id: int) -> str:
        """A token as the vocabulary spells it, with its marks of spaces and bytes."""
        return self._backend.id_to_token(token_id) or ""

    def decode(self, token_ids: Sequence[int], *, shows_special: bool = False) -> str:
        """The text of these tokens, without special ones unless they are to be shown."""
        detokenizer = IncrementalDetokenizer(self.vocabulary, is_whole_text=True, shows_special=shows_special)
        return detokenizer.push(token_ids) + detokenizer.flush()
