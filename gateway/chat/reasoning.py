"""Reasoning apart from the answer, in a text that grows: `<think>...</think>` and its like. Pure."""

from typing import Final, Literal, NamedTuple

from gateway.grammars.output_grammar import GrammarText
from gateway.text.marks import MarkFinder

Start = Literal["inside", "maybe", "outside"]
"""Whether an output begins within the reasoning, may begin with its mark, or has none."""


class ReasoningFormat(NamedTuple):
    """How models of one family write their reasoning.

    Attributes:
        open_mark: Stands before it, unless the prompt ends with it.
        close_mark: Stands after it.
        is_assumed: A prompt without marks is answered with reasoning, whose first mark may be missing.
    """

    open_mark: str
    close_mark: str
    is_assumed: bool = False

    @property
    def marks(self) -> tuple[str, str]:
        """Both."""
        return self.open_mark, self.close_mark

    def start_after(self, prompt: str) -> Start:
        """How an output begins that follows this prompt, whose last mark tells."""
        opened, closed = prompt.rfind(self.open_mark), prompt.rfind(self.close_mark)
        if opened > closed:
            return "inside"
        if closed >= 0 and not prompt[closed + len(self.close_mark) :].strip():
            return "outside"
        return "inside" if self.is_assumed else "maybe"

    def rule(self, text: GrammarText, start: Start) -> str:
        """The beginning of a grammar's rule: what stands before the answer."""
        if start == "outside":
            return ""
        rest = rf"{text.until(self.close_mark)} /\n{{0,2}}/"
        return rest if start == "inside" else f"({text.literal(self.open_mark)} {rest})?"


_THINK: Final = ReasoningFormat("<think>", "</think>")
_ALWAYS_THINK: Final = ReasoningFormat("<think>", "</think>", is_assumed=True)

FORMATS: Final = {
    "deepseek_r1": _ALWAYS_THINK,
    "deepseek_v3": _THINK,
    "glm45": _THINK,
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
    "qwen3": _THINK,
}
"""By the names of vLLM's --reasoning-parser."""


class SplitText(NamedTuple):
    """What became certain with a piece of text."""

    reasoning: str = ""
    answer: str = ""


class ReasoningSplitter:
    """Splits one message. Newlines beside the marks belong to neither part.

    Attributes:
        is_reasoning: The answer has not begun.
        has_reasoned: There is reasoning, or has been.
    """

    def __init__(self, form: ReasoningFormat, start: Start) -> None:
        self.is_reasoning = start != "outside"
        self.has_reasoned = start == "inside"
        self._opening = MarkFinder(form.open_mark)
        self._closing = MarkFinder(form.close_mark)
        self._held = ""
        self._skips_newlines = True
        self._step = self._read_answer if start == "outside" else self._read_opening
        if start == "outside":
            self._skips_newlines = False

    def push(self, text: str) -> SplitText:
        """Add a piece."""
        return self._step(text)

    def finish(self) -> SplitText:
        """End the text."""
        if not self.is_reasoning:
            return SplitText()
        held = self._held + self._opening.flush() + self._closing.flush()
        return SplitText(self._shown(held).rstrip("\n")) if self.has_reasoned else SplitText(answer=held)

    def _read_opening(self, text: str) -> SplitText:
        """The first mark, before which only white space stands; if it is missing, the output begins without it."""
        found = self._opening.push(text)
        before, self._held = self._held + found.before, ""
        if before.strip():
            whole = before + self._opening.flush() + (found.mark or "") + found.after
            if self.has_reasoned:
                return self._reason(whole)
            self.is_reasoning, self._skips_newlines = False, False
            return self._answer(whole)
        if found.mark:
            self.has_reasoned = True
            return self._reason(found.after)
        self._held = before
        return SplitText()

    def _reason(self, text: str) -> SplitText:
        self._step = self._read_reasoning
        return self._read_reasoning(text)

    def _read_reasoning(self, text: str) -> SplitText:
        found = self._closing.push(text)
        shown = self._shown(self._held + found.before)
        reasoning = shown.rstrip("\n")
        if found.mark is None:
            self._held = shown[len(reasoning) :]
            return SplitText(reasoning)
        self.is_reasoning, self._skips_newlines = False, True
        return SplitText(reasoning, self._answer(found.after).answer)

    def _answer(self, text: str) -> SplitText:
        self._step = self._read_answer
        return self._read_answer(text)

    def _read_answer(self, text: str) -> SplitText:
        return SplitText(answer=self._shown(text))

    def _shown(self, text: str) -> str:
        """Without the newlines that follow a mark."""
        if self._skips_newlines:
            text = text.lstrip("\n")
            self._skips_newlines = not text
        return text
