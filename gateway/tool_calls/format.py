"""The interface of a family's way to write calls, and what several families share."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

from gateway.grammars.output_grammar import GrammarText
from gateway.tool_calls.parsed import CallParser
from gateway.tool_calls.tools import Tool


class ToolCallFormat(Protocol):
    """How models of one family write calls.

    Attributes:
        name: As vLLM's --tool-call-parser has it.
        marks: Texts that calls are made of; where one is a special token, the parser must see its name.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see above
    @property
    def marks(self) -> tuple[str, ...]: ...  # noqa: D102

    def parser(self, tools: Sequence[Tool], *, max_calls: int | None) -> CallParser:
        """For one message.

        Args:
            tools: That may be called.
            max_calls: Further ones are dropped; None for no limit.
        """

    def calls(self, text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        """The right side of a grammar's rule: a call, or several, and nothing else."""

    def calls_among_text(self, text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        """The same, with any text between the calls, and any number of them."""

    def call_id(self, seed: bytes) -> str:
        """An id for a call, always the same for the same seed."""


def json_call(text: GrammarText, tool: Tool, key: str) -> str:
    """A rule for the object that names a tool and, under a key, its arguments."""
    name = text.literal(f'{{"name": "{tool.name}", "{key}": ')
    return text.rule(f'{name} {arguments(text, tool)} "}}"')


def arguments(text: GrammarText, tool: Tool) -> str:
    """The right side of a rule: a tool's arguments alone."""
    return text.json(tool.parameters, is_strict=tool.is_strict)


def call_id(seed: bytes) -> str:
    """An id as OpenAI makes them."""
    return f"call_{blake2b(seed, digest_size=12).hexdigest()}"
