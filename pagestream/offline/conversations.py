"""What people give as conversations, and the prompts that are made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.chat.conversation import Conversation
from gateway.protocol.body_parsing import validated
from gateway.tokenizers.tokenizer import Tokenizer
from pagestream.offline.prompts import Prompt

Message = Mapping[str, Any]
"""`role` and `content`, and whatever else a template may look at."""


def as_conversations(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> list[Sequence[Message]]:
    """One conversation or several as several."""
    if messages and isinstance(messages[0], Mapping):
        return [messages]  # type: ignore[list-item]
    return list(messages)  # type: ignore[arg-type]


def read_conversation(messages: Sequence[Message], fields: Mapping[str, Any], tokenizer: Tokenizer) -> Prompt:
    """Render a conversation and tokenize it, as the server does.

    Args:
        messages: At least one.
        fields: Of `Conversation`, beside the messages; None counts as absent.
        tokenizer: Has the model's template.

    Raises:
        InvalidRequestError: a message or a field is wrong, or the template refuses it.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    conversation = validated(Conversation, {"messages": list(map(dict, messages)), **given})
    conversation.check_template_fields()
    text = tokenizer.render_chat(
        conversation.template_messages, conversation.rendering, template=conversation.chat_template
    )
    return Prompt(text, tokenizer.encode(text, add_special_tokens=False))
