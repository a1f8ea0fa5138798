"""What is asked: conversations of one turn or more."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Message = dict[str, str]
"""`role` and `content`, as OpenAI's API has them."""

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user says, and how much of an answer is wanted.

    Attributes:
        text: What is said.
        num_tokens: Of the text.
        max_tokens: Of the answer.
    """

    text: str
    num_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that follow each other: each one is sent with all before it and their answers."""

    turns: tuple[Turn, ...]

    @classmethod
    def of(cls, text: str, num_tokens: int, max_tokens: int) -> "Conversation":
        """A single question."""
        return cls((Turn(text, num_tokens, max_tokens),))

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[Turn]:
        return iter(self.turns)


class Transcript:
    """What has been said so far in a conversation."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.num_tokens = 0

    def add(self, role: Role, text: str, num_tokens: int) -> None:
        """Somebody says something."""
        self.messages.append({"role": role, "content": text})
        self.num_tokens += num_tokens


def num_requests(conversations: Iterable[Conversation]) -> int:
    """One per turn."""
    return sum(map(len, conversations))
