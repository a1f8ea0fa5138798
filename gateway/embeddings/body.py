"""The body of `POST /v1/embeddings`, and its answer."""

from typing import Literal, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from gateway.protocol.body_parsing import read_fields, validated
from gateway.protocol.openai_requests import Prompts

MAX_INPUTS = 2048
"""OpenAI's bound."""


class EmbeddingBody(BaseModel):
    """OpenAI's fields; those after `user` are vLLM's or ours."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str
    input: Prompts = Field(max_length=MAX_INPUTS)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None
    pooling: Literal["last", "mean"] | None = None
    add_special_tokens: bool = True
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    cache_salt: str = Field(default="", max_length=1024)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body. A field that is null counts as absent.

        Raises:
            InvalidRequestError: no JSON object, or a value that is out of range.
        """
        return validated(cls, read_fields(body))


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingObject(msgspec.Struct, frozen=True):
    """One input as a vector of length 1: numbers, or little-endian float32 in base64."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingList(msgspec.Struct, frozen=True):
    """What the endpoint answers."""

    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
    object: str = "list"
