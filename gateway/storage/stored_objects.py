"""What OpenAI's stored objects have in common: their ids, and what clients note on them."""

import secrets
from typing import Annotated

from pydantic import Field

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""A client's own notes."""


def new_id(prefix: str) -> str:
    """An id that nobody has had before; the prefix ends with what separates it."""
    return prefix + secrets.token_hex(24)
