"""Calls as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one or several."""

from collections.abc import Callable, Sequence
from typing import Final

from gateway.grammars.output_grammar import GrammarText, choice
from gateway.text.marks import MarkFinder
from gateway.tool_calls.format import call_id, json_call
from gateway.tool_calls.json_text import CallScanner
from gateway.tool_calls.parsed import MessageDraft, Parsed
from gateway.tool_calls.tools import Tool

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"
_OPENING: Final = f"{OPEN}\n"
_CLOSING: Final = f"\n{CLOSE}"


class HermesParser:
    """Implements `CallParser`. What stands between the marks without being a call is content."""

    def __init__(self, max_calls: int | None = None) -> None:
        self._draft = MessageDraft(max_calls)
        self._opening = MarkFinder(OPEN)
        self._closing = MarkFinder(CLOSE, OPEN)
        self._call = CallScanner()
        self._raw = ""
        self._step: Callable[[str], str] = self._read_content

    def push(self, text: str) -> Parsed:
        """See `CallParser`."""
        while text:
            text = self._step(text)
        return self._draft.take()

    def finish(self) -> Parsed:
        """See `CallParser`."""
        self._draft.text(self._opening.flush())
        self._draft.text(self._raw + (self._closing.flush() if self._raw else ""))
        self._draft.end()
        return self._draft.take()

    def _read_content(self, text: str) -> str:
        found = self._opening.push(text)
        self._draft.text(found.before)
        if found.mark:
            self._call, self._raw, self._step = CallScanner(), OPEN, self._read_call
        return found.after

    def _read_call(self, text: str) -> str:
        is_begun = self._call.name is not None
        arguments, rest = self._call.push(text)
        if not is_begun:
            self._raw += text[: len(text) - len(rest)]
        if self._call.name is not None:
            self._raw = ""
            if not is_begun:
                self._draft.begin_call(self._call.name)
            self._draft.arguments(arguments)
        if self._call.is_done or self._call.is_broken:
            self._step = self._read_end
        return rest

    def _read_end(self, text: str) -> str:
        found = self._closing.push(text)
        if self._raw:
            self._raw += found.before
        if found.mark is None:
            return ""
        if self._raw:
            self._draft.text(self._raw + (CLOSE if found.mark == CLOSE else ""))
            self._raw = ""
        self._step = self._read_content
        return found.after if found.mark == CLOSE else OPEN + found.after


class HermesFormat:
    """Implements `ToolCallFormat`."""

    name = "hermes"
    marks = (OPEN, CLOSE)

    def parser(self, tools: Sequence[Tool], *, max_calls: int | None) -> HermesParser:
        """See `ToolCallFormat`."""
        return HermesParser(max_calls)

    def calls(self, text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        """See `ToolCallFormat`."""
        call = text.rule(f"{text.literal(_OPENING)} {self._call(text, tools)}")
        return f'{call} ("\\n" {call})*' if is_parallel else call

    def calls_among_text(self, text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        """See `ToolCallFormat`."""
        call = text.rule(f'{text.until(OPEN)} "\\n" {self._call(text, tools)}')
        return f"{call}{'*' if is_parallel else '?'} {text.anything()}"

    def call_id(self, seed: bytes) -> str:
        """See `ToolCallFormat`."""
        return call_id(seed)

    @staticmethod
    def _call(text: GrammarText, tools: Sequence[Tool]) -> str:
        """All after the opening mark."""
        return f"{choice([json_call(text, tool, 'arguments') for tool in tools])} {text.literal(_CLOSING)}"
