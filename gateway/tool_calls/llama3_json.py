"""Calls as Llama 3 writes them: the whole message is one object, or several with semicolons between them."""

from collections.abc import Callable, Collection, Sequence
from typing import Final

from gateway.grammars.output_grammar import GrammarText, choice
from gateway.text.marks import MarkFinder
from gateway.tool_calls.format import call_id, json_call
from gateway.tool_calls.json_text import CallScanner
from gateway.tool_calls.parsed import MessageDraft, Parsed
from gateway.tool_calls.tools import Tool

MARK: Final = "<|python_tag|>"
_BETWEEN_CALLS: Final = "; \t\r\n"


class Llama3JsonParser:
    """Implements `CallParser`. An object that calls none of the tools, and all that follows it, is content."""

    def __init__(self, names: Collection[str], max_calls: int | None = None) -> None:
        self._names = names
        self._draft = MessageDraft(max_calls)
        self._mark = MarkFinder(MARK)
        self._call = CallScanner()
        self._raw = ""
        self._step: Callable[[str], str] = self._read_beginning

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

    def _read_beginning(self, text: str) -> str:
        """White space and the mark, until an object begins or something else."""
        found = self._mark.push(text)
        self._raw += found.before
        if self._raw.strip():
            text, self._raw, self._step = self._raw + self._mark.flush(), "", self._read_call
            return text + (found.mark or "") + found.after
        if found.mark:
            self._raw, self._step = "", self._read_call
        return found.after

    def _read_call(self, text: str) -> str:
        is_begun = self._call.name is not None
        arguments, rest = self._call.push(text)
        if not is_begun:
            self._raw += text[: len(text) - len(rest)]
        name = self._call.name
        if name is not None and name in self._names:
            self._raw = ""
            if not is_begun:
                self._draft.begin_call(name)
            self._draft.arguments(arguments)
        if self._call.is_broken or (name is not None and name not in self._names):
            raw, self._raw = self._raw, ""
            self._step = self._read_content
            return raw + rest
        if self._call.is_done:
            self._call, self._step = CallScanner(), self._read_separator
        return rest

    def _read_separator(self, text: str) -> str:
        rest = text.lstrip(_BETWEEN_CALLS)
        if rest:
            self._step = self._read_call
        return rest

    def _read_content(self, text: str) -> str:
        self._draft.text(text)
        return ""


class Llama3JsonFormat:
    """Implements `ToolCallFormat`."""

    name = "llama3_json"
    marks = (MARK,)

    def parser(self, tools: Sequence[Tool], *, max_calls: int | None) -> Llama3JsonParser:
        """See `ToolCallFormat`."""
        return Llama3JsonParser({tool.name for tool in tools}, max_calls)

    def calls(self, text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        """See `ToolCallFormat`."""
        call = text.rule(choice([json_call(text, tool, "parameters") for tool in tools]))
        return f'{call} ("; " {call})*' if is_parallel else call

    def calls_among_text(self, text: GrammarText, tools: Sequence[Tool], *, is_parallel: bool) -> str:
        """See `ToolCallFormat`. A text is one that does not begin as an object does."""
        calls = self.calls(text, tools, is_parallel=is_parallel)
        return choice([r"/([^{<\s](.|\n)*)?/", f"{text.literal(MARK)}? {calls}"])

    def call_id(self, seed: bytes) -> str:
        """See `ToolCallFormat`."""
        return call_id(seed)
