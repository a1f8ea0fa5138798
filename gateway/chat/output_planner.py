"""What one request's outputs must look like, and how they are read: a grammar, and parsers."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from gateway.chat.chat_format import ChatFormat
from gateway.chat.choice_message import MessageReading
from gateway.grammars.grammar_check import GrammarCheck
from gateway.grammars.output_grammar import Constraint, GrammarText, choice
from gateway.protocol.openai_requests import ChatCompletionBody, GenerationBody
from gateway.tool_calls.format import arguments
from gateway.tool_calls.tools import Tool, ToolUse
from shared.errors import InvalidRequestError


class OutputPlan(NamedTuple):
    """For every choice of a request.

    Attributes:
        grammar: Its source; empty if any text will do.
        reading: How the text becomes a message; None if the text is the message.
    """

    grammar: str = ""
    reading: MessageReading | None = None


class OutputPlanner:
    """Knows how the model writes messages, and has grammars checked."""

    def __init__(self, form: ChatFormat, check: GrammarCheck) -> None:
        self._form = form
        self._check = check

    async def text(self, body: GenerationBody) -> OutputPlan:
        """For a text that continues its prompt.

        Raises:
            InvalidRequestError: what is asked for cannot be enforced.
        """
        constraint = body.constraint
        if constraint is None:
            return OutputPlan()
        text = self._text()
        rule = await asyncio.to_thread(constraint.rule, text)
        return OutputPlan(await self._checked(text, rule, [constraint]))

    async def message(self, body: ChatCompletionBody, prompt: str, completion_id: str) -> OutputPlan:
        """For a message that answers a conversation.

        Args:
            body: The request.
            prompt: The conversation's text, which may end within the reasoning.
            completion_id: What ids of calls are made from.

        Raises:
            InvalidRequestError: what is asked for cannot be enforced, or is switched off.
        """
        use, constraint, form = body.tool_use, body.constraint, self._form
        if use and not use.is_forced and not form.has_auto_calls:
            raise InvalidRequestError(
                "'tool_choice' is \"auto\", which this server does not do; start it with --enable-auto-tool-choice",
                param="tool_choice",
            )
        calls = form.forced_calls if use and use.is_forced else form.calls
        start = form.reasoning.start_after(prompt) if form.reasoning else "outside"
        reading = None
        if form.reasoning or (use and calls):
            reading = MessageReading(
                vocabulary=form.vocabulary,
                reasoning=form.reasoning,
                start=start,
                use=use,
                calls=calls,
                completion_id=completion_id,
                shows_reasoning=body.include_reasoning,
            )
        text = self._text()
        rule = await asyncio.to_thread(self._rule, text, use, constraint) if use or constraint else None
        if rule is None:
            return OutputPlan(reading=reading)
        if form.reasoning:
            rule = f"{form.reasoning.rule(text, start)} {rule}"
        tools = use.callable if use else ()
        constraints = [_constraint(tool) for tool in tools] + ([constraint] if constraint else [])
        return OutputPlan(await self._checked(text, rule, constraints), reading)

    def _rule(self, text: GrammarText, use: ToolUse | None, constraint: Constraint | None) -> str | None:
        """The right side of a rule for all that follows the reasoning."""
        calls = self._form.calls
        if use is None or (calls is None and not use.is_forced):
            return constraint and constraint.rule(text)
        if use.is_forced:
            return self._form.forced_calls.calls(text, use.callable, is_parallel=use.is_parallel)
        assert calls is not None
        if constraint is not None:
            return choice([calls.calls(text, use.callable, is_parallel=use.is_parallel), constraint.rule(text)])
        if any(tool.is_strict for tool in use.callable):
            return calls.calls_among_text(text, use.callable, is_parallel=use.is_parallel)
        return None

    def _text(self) -> GrammarText:
        return GrammarText(self._form.special_marks)

    async def _checked(self, text: GrammarText, rule: str, constraints: Sequence[Constraint]) -> str:
        source = text.source(rule)
        await self._check.check(source, constraints, self._text)
        return source


def _constraint(tool: Tool) -> Constraint:
    return Constraint(tool.param, partial(arguments, tool=tool))
