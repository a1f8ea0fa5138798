"""The source of a grammar for one output, put together from what a request asks for. Pure.

It is Lark text as llguidance reads it; a grammar of the client's own goes beside it under a name of its own.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import llguidance
import msgspec

WHITESPACE: Final = r"( |\n[ \t]{0,40})?"
"""Between JSON's tokens, unless the client says otherwise. Without a bound small models write white space for ever."""


class GrammarText:
    """Rules under construction.

    Args:
        special_tokens: By name. They are no text: where one is written in a literal, the token itself is meant.
    """

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._special_tokens = special_tokens
        self._rules: list[str] = []
        self._own: list[str] = []

    def is_special(self, name: str) -> bool:
        """Whether this is the name of a special token."""
        return name in self._special_tokens

    def literal(self, text: str) -> str:
        """Exactly this."""
        if not self._special_tokens:
            return self.plain(text)
        names = "|".join(map(re.escape, self._special_tokens))
        parts = [part for part in re.split(f"({names})", text) if part]
        return " ".join(self._special(part) or json.dumps(part) for part in parts) or '""'

    def plain(self, text: str) -> str:
        """Exactly this, where nothing in it is meant to be a special token."""
        return json.dumps(text)

    def until(self, mark: str) -> str:
        """Any text up to a mark, and the mark."""
        if special := self._special(mark):
            return f"{self.anything()} {special}"
        return self.rule(rf"/(.|\n)*{llguidance.regex_to_lark(re.escape(mark))}/", lazy=True)

    def anything(self) -> str:
        """Any text."""
        return r"/(.|\n)*/"

    def regex(self, pattern: str) -> str:
        """A text that the pattern matches as a whole."""
        return f"/{llguidance.regex_to_lark(pattern)}/" if pattern else '""'

    def json(self, schema: Mapping[str, Any], *, is_strict: bool, whitespace: str | None = WHITESPACE) -> str:
        """JSON text that fits a schema.

        Args:
            schema: JSON Schema.
            is_strict: Whether what cannot be enforced is an error; else it is left out.
            whitespace: Pattern of what may stand between JSON's tokens; None for nothing.
        """
        options: dict[str, object] = {"lenient": not is_strict, "coerce_one_of": not is_strict}
        options |= {"whitespace_flexible": False} if whitespace is None else {"whitespace_pattern": whitespace}
        return f"%json {msgspec.json.encode({**schema, 'x-guidance': options}).decode()}"

    def own(self, source: str) -> str:
        """What a grammar of the client's own describes, which is Lark text with a rule `start`."""
        self._own.append(source)
        return f"@own{len(self._own)}"

    def rule(self, body: str, *, lazy: bool = False) -> str:
        """Give a rule a name, which is returned.

        Args:
            body: Its right side.
            lazy: It ends as soon as it can.
        """
        name = f"r{len(self._rules) + 1}"
        self._rules.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return name

    def source(self, start: str) -> str:
        """The whole grammar.

        Args:
            start: The right side of its first rule.
        """
        text = "\n".join((f"start: {start}", *self._rules))
        if not self._own:
            return text
        grammars: list[dict[str, str]] = [{"lark_grammar": text}]
        grammars += [{"name": f"own{number}", "lark_grammar": source} for number, source in enumerate(self._own, 1)]
        return json.dumps({"grammars": grammars})

    def _special(self, name: str) -> str | None:
        token_id = self._special_tokens.get(name)
        return None if token_id is None else f"<[{token_id}]>"


def choice(alternatives: Sequence[str]) -> str:
    """One of these."""
    return f"({' | '.join(alternatives)})"


class Constraint(NamedTuple):
    """One thing that an output must be.

    Attributes:
        param: The field of the request that asks for it.
        rule: Writes it; returns the right side of a rule. May take long, and may raise InvalidRequestError.
    """

    param: str
    rule: Callable[[GrammarText], str]
