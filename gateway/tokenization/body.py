"""The bodies of /tokenize and /detokenize, and their answers."""

from collections.abc import Sequence
from typing import Annotated, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, RootModel

from gateway.chat.conversation import Conversation
from gateway.protocol.body_parsing import read_fields, validated


class TextToTokenize(BaseModel):
    """A text, as /v1/completions would read it."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class ConversationToTokenize(Conversation):
    """A conversation, as /v1/chat/completions would read it."""

    model: str | None = None
    return_token_strs: bool = False


class TokenizeBody(RootModel[TextToTokenize | ConversationToTokenize]):
    """`POST /tokenize`."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body: it is a conversation if it has messages. A field that is null counts as absent.

        Raises:
            InvalidRequestError: no JSON object, a value that is wrong, or fields that contradict each other.
        """
        fields = read_fields(body)
        if "messages" not in fields:
            return cls(validated(TextToTokenize, fields))
        conversation = validated(ConversationToTokenize, fields)
        conversation.check_template_fields()
        return cls(conversation)


class DetokenizeBody(BaseModel):
    """`POST /detokenize`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body. A field that is null counts as absent.

        Raises:
            InvalidRequestError: no JSON object, or a value that is wrong.
        """
        return validated(cls, read_fields(body))


class Tokenized(msgspec.Struct, frozen=True):
    """The answer of /tokenize.

    Attributes:
        max_model_len: Null while no worker has told it.
        token_strs: The tokens as the vocabulary spells them, if they were asked for.
    """

    count: int
    max_model_len: int | None
    tokens: Sequence[int]
    token_strs: Sequence[str] | None = None


class Detokenized(msgspec.Struct, frozen=True):
    """The answer of /detokenize; special tokens stand in it by their names."""

    prompt: str
