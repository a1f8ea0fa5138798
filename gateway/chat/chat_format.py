"""How one gateway's model writes messages: chosen once at the start, from flags or by the model's chat template."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from gateway.chat.reasoning import FORMATS as REASONING_FORMATS
from gateway.chat.reasoning import ReasoningFormat
from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.vocabulary import Vocabulary
from gateway.tool_calls.format import ToolCallFormat
from gateway.tool_calls.hermes import HermesFormat
from gateway.tool_calls.llama3_json import Llama3JsonFormat
from gateway.tool_calls.mistral import MistralFormat
from shared.errors import ConfigurationError

_T = TypeVar("_T")

NONE: Final = "none"
"""What a flag says to switch a parser off."""

_CALL_FORMATS: Final[Mapping[str, ToolCallFormat]] = {
    known.name: known for known in (HermesFormat(), Llama3JsonFormat(), MistralFormat())
}
_TEMPLATE_SIGNS: Final = (
    (r"<function=", None),
    (r"<tool_call>", "hermes"),
    (r"\[TOOL_CALLS\]", "mistral"),
    (r"<\|python_tag\|>|ipython", "llama3_json"),
)
"""What a chat template has in it that shows calls of each format; one with `<function=` is of none of them."""


@dataclass(frozen=True)
class ChatFormat:
    """The formats of one model.

    Attributes:
        vocabulary: As for any text, but with the marks that are special tokens shown.
        special_marks: Those of the formats' marks that are special tokens, by name.
        reasoning: None if the model does not reason.
        calls: None if calls cannot be told from text.
        forced_calls: How calls are written that must come: the model's own way, if it is known.
        has_auto_calls: Whether the model may decide by itself to call something.
    """

    vocabulary: Vocabulary
    special_marks: Mapping[str, int]
    reasoning: ReasoningFormat | None
    calls: ToolCallFormat | None
    forced_calls: ToolCallFormat
    has_auto_calls: bool

    @classmethod
    def choose(
        cls,
        tokenizer: Tokenizer,
        *,
        tool_call_parser: str | None = None,
        reasoning_parser: str | None = None,
        has_auto_calls: bool = True,
    ) -> "ChatFormat":
        """Choose.

        Args:
            tokenizer: The model's, with its chat template.
            tool_call_parser: A name, or "none"; None leaves it to the template.
            reasoning_parser: The same.
            has_auto_calls: See the attribute.

        Raises:
            ConfigurationError: there is no parser of that name.
        """
        template = tokenizer.chat_template
        calls = _chosen(tool_call_parser, _CALL_FORMATS, "--tool-call-parser")
        if tool_call_parser is None and template is not None:
            calls = _calls_of(template.source) if template.knows_tools else _CALL_FORMATS["hermes"]
        reasoning = _chosen(reasoning_parser, REASONING_FORMATS, "--reasoning-parser")
        if reasoning_parser is None and template is not None:
            reasoning = _reasoning_of(template.source)
        forced_calls = calls or _CALL_FORMATS["hermes"]
        marks = {*forced_calls.marks, *(reasoning.marks if reasoning else ())}
        names = {name.decode(): token_id for token_id, name in tokenizer.vocabulary.special_tokens.items()}
        special = {mark: names[mark] for mark in sorted(marks) if mark in names}
        return cls(
            vocabulary=_showing(tokenizer.vocabulary, special),
            special_marks=special,
            reasoning=reasoning,
            calls=calls,
            forced_calls=forced_calls,
            has_auto_calls=has_auto_calls,
        )


def _chosen(name: str | None, known: Mapping[str, _T], flag: str) -> _T | None:
    if name is None or name == NONE:
        return None
    if name not in known:
        raise ConfigurationError(f"{flag} is {name!r}; there are {', '.join(known)} and {NONE}")
    return known[name]


def _calls_of(template: str) -> ToolCallFormat | None:
    for sign, name in _TEMPLATE_SIGNS:
        if re.search(sign, template):
            return _CALL_FORMATS[name] if name else None
    return None


def _reasoning_of(template: str) -> ReasoningFormat | None:
    for form in REASONING_FORMATS.values():
        if form.close_mark in template and not form.is_assumed:
            return form
    return None


def _showing(vocabulary: Vocabulary, special: Mapping[str, int]) -> Vocabulary:
    table = list(vocabulary.token_bytes)
    for name, token_id in special.items():
        table[token_id] = name.encode()
    return replace(vocabulary, token_bytes=tuple(table))
