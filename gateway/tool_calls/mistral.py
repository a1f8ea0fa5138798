"""Calls as Mistral's models write them.

Older ones: `[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`; newer ones, once for each call:
`[TOOL_CALLS]name[ARGS]{...}`, some with an id before the arguments or without that mark.
"""

import string
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from gateway.grammars.output_grammar import GrammarText, choice
from gateway.text.marks import MarkFinder
from gateway.tool_calls.format import arguments, json_call
from gateway.tool_calls.json_text import CallScanner, ValueScanner
from gateway.tool_calls.parsed import MessageDraft, Parsed
from gateway.tool_calls.tools import Tool

MARK: Final = "[TOOL_CALLS]"
ARGUMENTS: Final = "[ARGS]"
ID: Final = "[CALL_ID]"
_ALPHABET: Final = string.ascii_letters + string.digits
_ID_LENGTH: Final = 9


class MistralParser:
    """Implements `CallParser`."""

    def __init__(self, max_calls: int | None = None) -> None:
        self._draft = MessageDraft(max_calls)
        self._mark = MarkFinder(MARK)
        self._call = CallScanner()
        self._value = ValueScanner()
        self._raw = ""
        self._step: Callable[[str], str] = self._read_content

    def push(self, text: str) -> Parsed:
        """See `CallParser`."""
        while text:
            text = self._step(text)
        return self._draft.take()

    def finish(self) -> Parsed:
        """See `CallParser`."""
        self._draft.text(self._raw + self._mark.flush())
        self._draft.end()
        return self._draft.take()

    def _read_content(self, text: str) -> str:
        found = self._mark.push(text)
        self._draft.text(found.before)
        if found.mark:
            self._raw, self._step = MARK, self._read_beginning
        return found.after

    def _read_beginning(self, text: str) -> str:
        """Whether an array follows the mark or a name."""
        rest = text.lstrip()
        self._raw += text[: len(text) - len(rest)]
        if rest.startswith("["):
            self._raw += "["
            self._call, self._step = CallScanner(), self._read_object
            return rest[1:]
        if rest:
            self._step = self._read_name
        return rest

    def _read_object(self, text: str) -> str:
        is_begun = self._call.name is not None
        more, rest = self._call.push(text)
        if not is_begun:
            self._raw += text[: len(text) - len(rest)]
        if self._call.name is not None:
            self._raw = ""
            if not is_begun:
                self._draft.begin_call(self._call.name)
            self._draft.arguments(more)
        if self._call.is_broken:
            return self._give_up(rest)
        if self._call.is_done:
            self._step = self._read_separator
        return rest

    def _read_separator(self, text: str) -> str:
        rest = text.lstrip()
        if rest.startswith(","):
            self._call, self._step = CallScanner(), self._read_object
        elif rest:
            self._step = self._read_content
        return rest[1:] if rest.startswith((",", "]")) else rest

    def _read_name(self, text: str) -> str:
        """Up to where the arguments begin; a name is a word, and an id may follow it."""
        before, brace, after = text.partition("{")
        self._raw += before
        name = self._raw.removeprefix(MARK).removesuffix(ARGUMENTS).partition(ID)[0].strip()
        if not brace:
            return ""
        if not name or set(name) - set(f"{_ALPHABET}_-."):
            return self._give_up("{" + after)
        self._raw = ""
        self._draft.begin_call(name)
        self._value, self._step = ValueScanner(), self._read_arguments
        return "{" + after

    def _read_arguments(self, text: str) -> str:
        end = self._value.push(text)
        self._draft.arguments(text[:end])
        if self._value.is_complete:
            self._step = self._read_content
        return text[end:]

    def _give_up(self, rest: str) -> str:
        """What was no call is content."""
        self._draft.text(self._raw)
        self._raw, self._step = "", self._read_content
        return rest


class MistralFormat:
    """Implements `ToolCallFormat`."""

    name = "mistral"
    marks = (MARK, ARGUMENTS, ID)

    def parser(self, tools: Sequence[Tool], *, max_calls: int | None) -> MistralParser:
        """See `ToolCallFormat`."""
        return MistralParser(max_calls)

    def calls(self, text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        """See `ToolCallFormat`."""
        return f"{text.literal(MARK)} {self._after_mark(text, tools, is_parallel=is_parallel)}"

    def calls_among_text(self, text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        """See `ToolCallFormat`."""
        calls = f"{text.until(MARK)} {self._after_mark(text, tools, is_parallel=is_parallel)}"
        return f"({calls})? {text.anything()}"

    def call_id(self, seed: bytes) -> str:
        """See `ToolCallFormat`. Templates refuse other ids than of nine letters and digits."""
        return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in blake2b(seed, digest_size=_ID_LENGTH).digest())

    @staticmethod
    def _after_mark(text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        if text.is_special(ARGUMENTS):
            named = [f"{text.literal(f'{tool.name}{ARGUMENTS}')} {arguments(text, tool)}" for tool in tools]
            call = text.rule(choice(named))
            return f"{call} ({text.literal(MARK)} {call})*" if is_parallel else call
        call = text.rule(choice([json_call(text, tool, "arguments") for tool in tools]))
        return f'" "? "[" {call} (", " {call})* "]"' if is_parallel else f'" "? "[" {call} "]"'
