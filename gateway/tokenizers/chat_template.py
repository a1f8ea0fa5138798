"""The text of a conversation, as the model was trained to read it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from gateway.tool_calls.history import ChatMessage, in_plain_text
from shared.errors import CheckpointError, InvalidRequestError

_TEMPLATE_FAULTS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError)


class Rendering(NamedTuple):
    """How a conversation is rendered.

    Attributes:
        opens_answer: The text ends with the opening of the assistant's answer.
        continues_message: The text ends with the last message's content, which the model goes on from.
        tools: Definitions of what the model may call.
        documents: What the model may look at.
        variables: Further ones, which templates have names for.
    """

    opens_answer: bool = True
    continues_message: bool = False
    tools: Sequence[dict[str, Any]] | None = None
    documents: Sequence[dict[str, Any]] | None = None
    variables: Mapping[str, object] = {}


DEFAULT_RENDERING = Rendering()


class ChatTemplate:
    """A model's template, rendered by transformers in its sandbox: templates come with models, and are not trusted.

    Attributes:
        source: Jinja.
        knows_tools: Whether it has a place for tools; if not, calls and results are put into words.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile it, so that a template that is wrong is seen at the start.

        Args:
            source: Jinja, as in `tokenizer_config.json`.
            special_tokens: What `bos_token`, `eos_token` and so on stand for.

        Raises:
            CheckpointError: the source is no template.
        """
        self.source = source
        self.knows_tools = bool(re.search(r"\btools\b", source))
        self._special_tokens: dict[str, Any] = dict(special_tokens)
        try:
            self.render([{"role": "user", "content": "Hello"}])
        except InvalidRequestError as error:
            if isinstance(error.__cause__, jinja2.TemplateSyntaxError):
                raise CheckpointError(f"the chat template is no valid Jinja: {error.__cause__}") from error

    def render(self, messages: Sequence[ChatMessage], how: Rendering = DEFAULT_RENDERING) -> str:
        """The conversation's text.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        tools: list[Any] | None = None if how.tools is None else list(how.tools)
        if not self.knows_tools:
            messages, tools = in_plain_text(messages, tools), None
        try:
            rendered: Any = render_jinja_template(
                conversations=[list(messages)],
                tools=tools,
                documents=None if how.documents is None else list(how.documents),
                chat_template=self.source,
                add_generation_prompt=how.opens_answer,
                continue_final_message=how.continues_message,
                **(self._special_tokens | dict(how.variables)),
            )
        except _TEMPLATE_FAULTS as error:
            raise InvalidRequestError(f"the chat template refuses it: {error}", param="messages") from error
        texts, _ = rendered
        return str(texts[0])


def template_of_request(source: str, special_tokens: Mapping[str, str]) -> ChatTemplate:
    """A template that a client brings along.

    Raises:
        InvalidRequestError: the source is no template.
    """
    try:
        return ChatTemplate(source, special_tokens)
    except CheckpointError as error:
        raise InvalidRequestError(f"'chat_template': {error}", param="chat_template") from error
