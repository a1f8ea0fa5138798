"""The text of a conversation, as the model was trained to read it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from shared.errors import CheckpointError, InvalidRequestError

ChatMessage = dict[str, object]
"""`role` and `content`, and whatever else a template may look at."""

_TEMPLATE_FAULTS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError)


class ChatTemplate:
    """A model's template, rendered by transformers in its sandbox: templates come with models, and are not trusted."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile it, so that a template that is wrong is seen at the start.

        Args:
            source: Jinja, as in `tokenizer_config.json`.
            special_tokens: What `bos_token`, `eos_token` and so on stand for.

        Raises:
            CheckpointError: the source is no template.
        """
        self._source = source
        self._special_tokens: dict[str, Any] = dict(special_tokens)
        try:
            self.render([{"role": "user", "content": "Hello"}])
        except InvalidRequestError as error:
            if isinstance(error.__cause__, jinja2.TemplateSyntaxError):
                raise CheckpointError(f"the model's chat template is no valid Jinja: {error}") from error

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True) -> str:
        """The conversation's text, with the opening of the assistant's answer.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        try:
            rendered: Any = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self._source,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except _TEMPLATE_FAULTS as error:
            raise InvalidRequestError(f"the model's chat template refuses it: {error}", param="messages") from error
        texts, _ = rendered
        return str(texts[0])
